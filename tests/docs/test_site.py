"""The documentation builds without a warning, fetches nothing, and has all that the code knows in it."""

from __future__ import annotations

import html
import inspect
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from dwindle import errors, registry
from dwindle.export import targets
from dwindle.grammar import Grammar
from tests.docs.pages import ROOT

pytestmark = [pytest.mark.needs("docs"), pytest.mark.slow]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True)
    assert (built.returncode, built.stdout + built.stderr) == (0, "")
    return folder


@pytest.fixture(scope="module")
def sections(site: Path) -> dict[str, str]:
    """The text of each section that search finds, by where it leads."""
    index = json.loads((site / "search/search_index.json").read_text("utf-8"))
    return {each["location"]: f"{each['title']} {each['text']}" for each in index["docs"]}


def test_nothing_is_fetched(site: Path) -> None:
    rel = r"rel=\W?(?:stylesheet|preload|preconnect|icon)"
    loads = rf"<(?:script|img|source|iframe)\b[^>]*\bsrc=[^>]*|<link\b[^>]*\b{rel}[^>]*"
    for page in site.rglob("*.html"):
        for found in re.finditer(loads, page.read_text("utf-8")):
            assert not re.search(r"https?://|=\"?//", found[0]), (page, found[0])


def test_every_command_and_option_is_in_the_reference(site: Path) -> None:
    page = html.unescape(re.sub(r"<[^>]+>", "", (site / "reference/commands.html").read_text("utf-8")))
    for command, parser in Grammar().commands.items():
        assert f"dwindle {command}" in page
        for action in parser._actions:
            assert action.dest == "help" or all(flag in page for flag in action.option_strings or [action.metavar])


def test_every_error_is_in_the_reference(site: Path) -> None:
    page = (site / "reference/errors.html").read_text("utf-8")
    public = [kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, Exception)]
    assert len(public) == 6
    for kind in public:
        assert f"<td><code>{kind.__name__}</code></td>" in page


@pytest.mark.parametrize("name", registry.names(targets.GROUP))
def test_it_says_of_zeros_what_the_target_says(site: Path, name: str) -> None:
    for place in ("reference/targets.html", "explanation/zeros.html"):
        rows = re.findall(r"<tr>\s*(.*?)\s*</tr>", (site / place).read_text("utf-8"), re.DOTALL)
        rows = [[html.unescape(re.sub(r"<[^>]+>", "", cell)) for cell in row.split("</td>")] for row in rows]
        (row,) = [cells for cells in rows if cells[0].strip() == name and len(cells) == 5]
        effect = registry.resolve(targets.GROUP, name, "target").effects.weights
        assert row[1].strip() == ("smaller" if effect.smaller else "not smaller")
        for speed in effect.speeds:
            assert speed.verdict in row[2]
            assert f"{speed.basis}, {speed.source}".rstrip(", ") in row[3]
        assert effect.speeds or row[2].strip() == "unknown"


TASKS = {
    "own network and folder": "tutorials/own-network.html",
    "resume after Ctrl-C": "how-to/resume.html",
    "ctrl-c": "how-to/resume.html",
    "interrupted run": "how-to/resume.html",
    "read from the page whether it worked": "how-to/read-report.html",
    "did it work?": "how-to/read-report.html",
    "gate in CI": "tutorials/ci.html",
    "add a target": "how-to/extend.html",
    "how to add a target": "how-to/extend.html",
}
"""What a stranger types, and the page that answers it."""


@pytest.mark.parametrize(
    ("words", "page"),
    [
        ("own network folder", "tutorials/own-network.html"),
        ("resume ctrl-c", "how-to/resume.html"),
        ("read report worked", "how-to/read-report.html"),
        ("gate ci", "tutorials/ci.html"),
        ("add target", "how-to/extend.html"),
    ],
)
def test_the_page_has_every_word_that_is_searched_for(sections: dict[str, str], words: str, page: str) -> None:
    of_page = " ".join(text for location, text in sections.items() if location.split("#")[0] == page).lower()
    assert all(word in of_page for word in words.split())


@pytest.mark.needs("chromium", "playwright")
def test_search_finds_what_a_stranger_types(site: Path) -> None:
    from playwright.sync_api import sync_playwright

    from dwindle.bench.devices import web

    said: list[str] = []
    first: dict[str, str] = {}
    with sync_playwright() as driver:
        page = driver.chromium.launch(executable_path=web.chromium()).new_page()
        page.on("console", lambda message: said.append(message.text))
        page.goto((site / "index.html").as_uri())
        box = page.locator("[data-md-component=search-query]")
        meta = page.locator(".md-search-result__meta")
        links = page.locator(".md-search-result__link")

        def search(words: str, until: str) -> None:
            box.fill(words)
            box.press("End")  # the page listens to keys
            meta.filter(has_text=until).wait_for(state="attached")

        for words in [*TASKS, *"abcdefghijklmnopqrstuvwxyz0123456789"]:
            search("", until="Type to start searching")
            search(words, until="matching document")
            if words in TASKS:
                links.first.wait_for(state="attached")
                found = links.first.get_attribute("href") or ""
                first[words] = found.split("?")[0].split("#")[0].removeprefix(f"{site.as_uri()}/")
    assert first == TASKS
    assert said == []  # where lunr fails, the page says so here, and that nothing was found
