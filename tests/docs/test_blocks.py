"""Each block of code in the README and in docs/ runs, or a comment says why not; each command line parses.

`test_commands.py` runs the command lines.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import torch
import yaml

from dwindle.bench.limits import read_limits
from dwindle.grammar import Grammar
from tests.docs.pages import CONTRIBUTING, PAGES, README, ROOT, blocks, command_lines, name, of_dwindle

LANGUAGES = {"sh", "python", "toml", "yaml", "text"}
"""Those of blocks: `text` is what is printed or lies on a disk, and is no code."""


@pytest.mark.parametrize("page", [*PAGES, CONTRIBUTING], ids=name)
def test_every_block_says_its_language(page: Path) -> None:
    assert {block.language for block in blocks(page)} <= LANGUAGES
    assert page.read_text("utf-8").count("```") == 2 * len(blocks(page))  # none is overlooked


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "sh")], ids=name)
def test_every_command_line_parses(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in blocks(page, "toml"):
        (tmp_path / "net.toml").write_text(block.code)  # what --config reads
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    run = command_lines(page)
    for words in command_lines(page, not_run=True):
        if (ours := of_dwindle(words)) is not None:
            Grammar().parse(ours)
        elif words in run:
            assert words[:2] == ["pip", "install"], words
            named = re.findall(r"\[(.*)\]", words[2])
            assert {extra for one in named for extra in one.split(",")} <= extras.keys()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_command_that_is_named_exists(page: Path) -> None:
    assert set(re.findall(r"`dwindle ([a-z]+)", page.read_text("utf-8"))) <= Grammar().commands.keys()


@pytest.mark.parametrize("page", [*PAGES, CONTRIBUTING, ROOT / "ARCHITECTURE.md"], ids=name)
def test_what_make_is_asked_for_is_in_the_makefile(page: Path) -> None:
    rules = set(re.findall(r"^([\w-]+):(?!=)", (ROOT / "Makefile").read_text(), re.MULTILINE))
    in_lines = [words[1:] for words in command_lines(page, not_run=True) if words[0] == "make"]
    in_text = [words.split() for words in re.findall(r"`make ([^`]+)`", page.read_text("utf-8"))]
    named = {word for words in [*in_lines, *in_text] for word in words if "=" not in word}
    assert named <= rules, named - rules


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_option_that_is_named_exists(page: Path) -> None:
    known = {flag for sub in Grammar().commands.values() for action in sub._actions for flag in action.option_strings}
    text = re.sub(r"^<!-- not run.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"<!--.*?-->|torchrun .*? -m dwindle|python -m studies\.[^`]*", "", text)  # other programs' options
    named = set(re.findall(r"(?<![-\w])--[a-z][a-z-]+", text))
    assert named <= known, named - known


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]


def test_the_readmes_python_is_the_tutorials() -> None:
    assert blocks(README, "python") == blocks(ROOT / "docs/tutorials/own-network.md", "python")[:1]


@pytest.mark.slow
@pytest.mark.usefixtures("short_slices")
@pytest.mark.parametrize("page", [page for page in WITH_PYTHON if page != README], ids=name)
def test_the_lines_of_python_run(page: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = "\n".join(block.code for block in blocks(page, "python") if block.not_run is None)
    # The same lines on a shorter training and measurement, so that the fast suite stays fast.
    quick = code.replace('task="digits", size="25KB")', 'task={"data": "digits", "epochs": 4}, rounds=2, size="25KB")')
    monkeypatch.chdir(tmp_path)
    ran: dict[str, object] = {"__name__": "page"}
    exec(quick, ran)
    if "request" in ran:
        assert quick != code
        assert (tmp_path / "net.dwindle/exports/onnx/net.onnx").stat().st_size <= 25_000
        assert Path(str(ran["page"])).exists()
    assert isinstance(ran.get("network", torch.nn.Identity()), torch.nn.Module)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "toml", "yaml")], ids=name)
def test_the_files_of_options_and_limits_are_read(page: Path, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").touch()
    for block in blocks(page, "toml", "yaml"):
        if block.language == "yaml":
            assert yaml.safe_load(block.code)
        elif "[gate]" in block.code:
            (tmp_path / "budget.toml").write_text(block.code)
            assert read_limits(tmp_path / "budget.toml").shared
        else:
            assert tomllib.loads(block.code)


def test_the_workflow_in_the_documentation_is_the_one_to_copy() -> None:
    (steps,) = (yaml.safe_load(block.code) for block in blocks(ROOT / "docs/tutorials/ci.md", "yaml"))
    assert yaml.safe_load((ROOT / "examples/budget.yml").read_text())["jobs"]["budget"]["steps"][:2] == steps
