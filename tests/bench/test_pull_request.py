"""The comment on a pull request, posted to a double of GitHub's and GitLab's APIs that answers as they document."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from dwindle.bench import gate
from dwindle.bench.part import read_parts, write_part
from dwindle.bench.pull_request import main
from dwindle.bench.verdict import joined
from dwindle.bench.views.comment import comment, marker
from dwindle.cli import main as dwindle
from dwindle.errors import CheckpointError, DwindleError


class Forge(ThreadingHTTPServer):
    """Pull request 7 of `fork:topic` at the commit `abc`, and merge request 7 of project 3, with comments."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.comments: list[dict[str, Any]] = []
        self.log: list[str] = []
        self.api = f"http://127.0.0.1:{self.server_port}"

    def add(self, body: str, kind: str = "Bot") -> None:
        self.comments.append({"id": 100 + len(self.comments), "body": body, "user": {"type": kind}})


class Handler(BaseHTTPRequestHandler):
    server: Forge

    def do_GET(self) -> None:
        forge, asked = self.server, parse_qs(urlsplit(self.path).query)
        if urlsplit(self.path).path == "/repos/a/b/pulls":
            pull = {"number": 7, "head": {"sha": "abc"}}
            return self.answer(200, [pull] if asked == {"state": ["open"], "head": ["fork:topic"]} else [])
        page, size = int(asked["page"][0]), int(asked["per_page"][0])
        return self.answer(200, forge.comments[(page - 1) * size : page * size])

    def do_POST(self) -> None:
        self.server.log.append(f"POST {self.path}")
        self.server.add(self.body())
        self.answer(201, self.server.comments[-1])

    def do_PATCH(self) -> None:
        self.server.log.append(f"{self.command} {self.path}")
        number = int(self.path.rpartition("/")[2])
        found = next(one for one in self.server.comments if one["id"] == number)
        found["body"] = self.body()
        self.answer(200, found)

    def do_PUT(self) -> None:
        self.do_PATCH()

    def body(self) -> str:
        return str(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["body"])

    def answer(self, status: int, document: Any) -> None:
        allowed = "Bearer right" in str(self.headers["Authorization"]) or self.headers["PRIVATE-TOKEN"] == "right"
        data = json.dumps(document if allowed else {"message": "Bad credentials"}).encode()
        self.send_response(status if allowed else 401)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        """Nothing on stderr."""


@pytest.fixture
def forge() -> Iterator[Forge]:
    with Forge() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def parts(onnx_files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Those of two jobs: dense.onnx, which held, and net.onnx, which is new."""
    monkeypatch.chdir(tmp_path)
    Path("main").mkdir()
    for path in onnx_files:
        shutil.copy(path, ".")
    shutil.copy("dense.onnx", "main")
    for job, name, limit in (("one", "dense.onnx", "1MB"), ("two", "net.onnx", "1KB")):
        Path("parts", job).mkdir(parents=True)
        arguments = ["gate", name, "--baseline", "main", "--max-growth", "2%", "--max-size", limit]
        dwindle([*arguments, "--part", f"parts/{job}/part.json"])
    return Path("parts")


def event(sha: str = "abc", owner: str = "fork") -> dict[str, str]:
    run = {"head_sha": sha, "head_branch": "topic", "head_repository": {"owner": {"login": owner}}}
    Path("event.json").write_text(json.dumps({"workflow_run": run}))
    return {"GITHUB_EVENT_PATH": "event.json", "GITHUB_REPOSITORY": "a/b", "GITHUB_TOKEN": "right"}


def test_parts_are_what_the_gate_found(parts: Path) -> None:
    dense, net = read_parts(parts)
    size = Path("dense.onnx").stat().st_size
    assert (dense.passed, net.passed) == (True, False)
    assert dense.figures["dense.onnx"]["size"] == dense.previous["dense.onnx"]["size"] == size
    assert dense.figures["dense.onnx"]["download"] == dense.previous["dense.onnx"]["download"] < size
    assert net.previous == {"net.onnx": {}}
    assert [row.name for row in net.rows] == ["max_size"]
    assert "net.onnx is new" in net.notes[0]
    text = comment(joined([dense, net]), "t")
    assert text.index("| dense.onnx") < text.index("| net.onnx")


@pytest.mark.parametrize(
    ("text", "code"), [('{"schema": 2}', "newer"), ("[]", "field"), ("{", "damaged"), ('{"schema": 1}', "field")]
)
def test_a_part_of_anyone(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "part.json").write_text(text)
    with pytest.raises(DwindleError) as refused:
        read_parts(tmp_path)
    assert refused.value.code == code
    assert main([str(tmp_path)], {}) == CheckpointError.exit_code


def test_one_comment_is_posted_and_then_brought_up_to_date(parts: Path, forge: Forge) -> None:
    environment = {"GITHUB_API_URL": forge.api, **event()}
    mark = marker("budget")
    forge.add(f"> {mark}\nquoted")
    forge.add(f"{mark}\nmine", kind="User")  # which the token could change
    for number in range(120):
        forge.add(f"comment {number}")
    for _ in range(2):
        assert main([str(parts), "--title", "budget"], environment) == 0
    assert forge.log == ["POST /repos/a/b/issues/7/comments", "PATCH /repos/a/b/issues/comments/222"]
    assert forge.comments[-1]["body"] == comment(joined(read_parts(parts)), "budget")
    assert main([str(parts), "--title", "another"], environment) == 0
    assert len(forge.comments) == 124


@pytest.mark.parametrize("other", [{"sha": "newer"}, {"owner": "someone"}])
def test_no_comment_on_another_commit_or_fork(parts: Path, forge: Forge, other: dict[str, str]) -> None:
    assert main([str(parts)], {"GITHUB_API_URL": forge.api, **event(**other)}) == 0
    assert not forge.log


def test_no_comment_where_no_job_came_to_the_gate(tmp_path: Path) -> None:
    assert main([str(tmp_path / "none")], {}) == 0


def test_what_is_refused_is_an_error(parts: Path, forge: Forge, capsys: pytest.CaptureFixture[str]) -> None:
    github = {"GITHUB_API_URL": forge.api, **event()}
    assert main([str(parts)], {**github, "GITHUB_TOKEN": "wrong"}) == 1
    assert main([str(parts)], {**github, "GITHUB_TOKEN": ""}) == 2
    assert main([str(parts)], {}) == 2
    Path("event.json").write_text('{"pull_request": {}}')
    assert main([str(parts)], github) == 2
    assert capsys.readouterr().err.count("error: ") == 4
    assert not forge.log


def test_a_note_on_a_merge_request(parts: Path, forge: Forge) -> None:
    gitlab = {"GITLAB_CI": "true", "CI_API_V4_URL": forge.api, "GITLAB_TOKEN": "right"}
    request = {"CI_MERGE_REQUEST_PROJECT_ID": "3", "CI_MERGE_REQUEST_IID": "7"}
    for _ in range(2):
        assert main([str(parts)], gitlab | request) == 0
    notes = "/projects/3/merge_requests/7/notes"
    assert forge.log == [f"POST {notes}", f"PUT {notes}/100"]
    assert main([str(parts)], gitlab) == 0
    assert len(forge.log) == 2


def test_it_runs_as_a_module_without_the_extras(parts: Path) -> None:
    program = (
        "import sys, runpy\nfor name in ('torch', 'onnx', 'scipy'): sys.modules[name] = None\n"
        "sys.argv = ['x', 'none']; runpy.run_module('dwindle.bench.pull_request', run_name='__main__')"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, "no comment" in done.stdout) == (0, True), done.stderr


def test_a_part_of_a_verdict_without_download_sizes(parts: Path, tmp_path: Path) -> None:
    write_part(tmp_path / "again.json", gate("net.onnx", max_size="1MB"))
    (found,) = (one for one in read_parts(tmp_path) if "net.onnx" in one.figures and one.passed)
    assert set(found.figures["net.onnx"]) == {"size"}
