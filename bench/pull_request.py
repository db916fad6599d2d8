"""`python -m dwindle.bench.pull_request FOLDER`: posts one comment on a pull request, or brings it up to date.

The folder has what `dwindle gate --part` wrote in each job. On GitHub this is run by a workflow of its own
(examples/comment.yml), which may write comments, while the pull request's own jobs, a fork's too, need no rights. Which
pull request it is about comes from GitHub's event, never from the folder, which anyone's pull request may have filled.
On GitLab (examples/gitlab.yml) it is run in the merge request's pipeline.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from dwindle.bench.part import read_parts
from dwindle.bench.verdict import joined
from dwindle.bench.views.comment import comment, marker
from dwindle.errors import DwindleError, UsageError

PAGE = 100
TIMEOUT = 30
"""Seconds that an answer may take."""


@dataclass(frozen=True)
class Discussion:
    """The comments on a pull request or merge request, and how one of them is changed."""

    headers: Mapping[str, str]
    comments: str
    """The address of all of them."""
    comment: str
    """The beginning of one's address, before its number."""
    update: str
    """The HTTP method that changes one."""
    by_bots: bool
    """Whether only comments of bots are changed: on GitHub a token may change those of anyone."""

    def post(self, text: str, mark: str) -> str:
        """Changes the comment that begins with `mark`, or posts one. Returns `updated` or `posted`."""
        marked = (one for one in self._all() if str(one["body"]).startswith(mark))
        own = next((one["id"] for one in marked if not self.by_bots or one["user"]["type"] == "Bot"), None)
        if own is None:
            _ask("POST", self.comments, self.headers, {"body": text})
            return "posted"
        _ask(self.update, f"{self.comment}/{own}", self.headers, {"body": text})
        return "updated"

    def _all(self) -> Iterator[dict[str, Any]]:
        for number in count(1):
            asked = urlencode({"per_page": PAGE, "page": number})
            page = _ask("GET", f"{self.comments}?{asked}", self.headers)
            yield from page
            if len(page) < PAGE:
                return


def on_github(environment: Mapping[str, str]) -> Discussion | None:
    """The pull request whose workflow has ended, by the event `workflow_run`; None where there is none, or where it
    has newer commits by now, whose own run will comment.

    Raises UsageError where this is no such event, DwindleError where GitHub refuses.
    """
    base = f"{environment['GITHUB_API_URL']}/repos/{environment['GITHUB_REPOSITORY']}"
    token = _token(environment, "GITHUB_TOKEN")
    headers = {"Authorization": f"Bearer {token}", "Accept": "application/vnd.github+json"}
    event = json.loads(Path(environment["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    run = event.get("workflow_run")
    if run is None:
        raise UsageError("this isn't the event `workflow_run`: see examples/comment.yml", code="no-event")
    head = f"{run['head_repository']['owner']['login']}:{run['head_branch']}"
    pulls = _ask("GET", f"{base}/pulls?{urlencode({'state': 'open', 'head': head})}", headers)
    number = next((pull["number"] for pull in pulls if pull["head"]["sha"] == run["head_sha"]), None)
    if number is None:
        return None
    return Discussion(headers, f"{base}/issues/{number}/comments", f"{base}/issues/comments", "PATCH", by_bots=True)


def on_gitlab(environment: Mapping[str, str]) -> Discussion | None:
    """The merge request whose pipeline this is; None where it is another's. Raises UsageError without a token."""
    if not environment.get("CI_MERGE_REQUEST_IID"):
        return None
    project = quote(environment["CI_MERGE_REQUEST_PROJECT_ID"], safe="")
    request = f"projects/{project}/merge_requests/{environment['CI_MERGE_REQUEST_IID']}"
    notes = f"{environment['CI_API_V4_URL']}/{request}/notes"
    headers = {"PRIVATE-TOKEN": _token(environment, "GITLAB_TOKEN")}
    return Discussion(headers, notes, notes, "PUT", by_bots=False)


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ) -> int:
    """Posts the comment. Returns 0, also where there is nothing to say; 1 or 2 after an error."""
    parser = argparse.ArgumentParser("python -m dwindle.bench.pull_request", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="The folder with what `dwindle gate --part` wrote.")
    parser.add_argument("--title", default="dwindle", help="Tells the comments of several workflows apart.")
    given = parser.parse_args(arguments)
    try:
        parts = read_parts(given.folder)
        if not parts:
            print(f"there is nothing in {given.folder}: no comment")
            return 0
        where = on_gitlab(environment) if environment.get("GITLAB_CI") else on_github(environment)
        if where is None:
            print("there is no open pull request at this commit: no comment")
            return 0
        print(f"{where.post(comment(joined(parts), given.title), marker(given.title))} the comment")
    except DwindleError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyError as error:
        print(f"error: {error} is missing: this has to run in a job of GitHub or GitLab", file=sys.stderr)
        return UsageError.exit_code
    return 0


def _token(environment: Mapping[str, str], name: str) -> str:
    if not (found := environment.get(name)):
        raise UsageError(f"{name} is not set: the comment can't be written", code="no-token", name=name)
    return found


def _ask(method: str, url: str, headers: Mapping[str, str], document: Any = None) -> Any:
    data = None if document is None else json.dumps(document).encode()
    sent = {**headers, **({"Content-Type": "application/json"} if data else {})}
    try:
        with urlopen(Request(url, data, sent, method=method), timeout=TIMEOUT) as answer:
            return json.load(answer)
    except (URLError, TimeoutError, ValueError) as error:  # an HTTPError is a URLError
        raise DwindleError(f"{method} {url.partition('?')[0]}: {error}", code="refused") from error


if __name__ == "__main__":
    sys.exit(main())
