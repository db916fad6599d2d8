"""What can be given is named where users look for it: by `--help`, and by the pages."""

from __future__ import annotations

import re
import tomllib

import pytest

from dwindle import models
from dwindle.grammar import Grammar
from dwindle.registry import names
from tests.docs.pages import PAGES, ROOT, blocks, command_lines

DATA = ROOT / "docs/how-to/models-and-data.md"
EVERY = "\n".join(page.read_text("utf-8") for page in PAGES)


@pytest.mark.parametrize("group", ["dwindle.data", "dwindle.models"])
def test_help_and_page_name_every_prefix(group: str) -> None:
    said, page = " ".join(Grammar().commands["compress"].format_help().split()), DATA.read_text("utf-8")
    known = names(group)
    assert len(known) >= 4
    for prefix in known:
        assert f"{prefix}:" in said, prefix
        assert f"`{prefix}:" in page, prefix


def test_the_pages_name_every_adapter() -> None:
    adapters = [name for name in models.__all__ if name.endswith("Task")]
    assert {"LightningTask", "TrainerTask", "UltralyticsTask"} <= set(adapters)
    page = (ROOT / "docs/tutorials/own-loop.md").read_text("utf-8")
    for name in adapters:
        assert f"`{name}`" in page or f"{name}(" in page, name


@pytest.mark.parametrize("adapter", ["LightningTask", "UltralyticsTask"])
def test_an_adapter_takes_at_most_five_lines_of_a_user(adapter: str) -> None:
    (block,) = [each for page in PAGES for each in blocks(page, "python") if f"{adapter}(" in each.code]
    assert len([line for line in block.code.splitlines() if line.strip()]) <= 5


@pytest.mark.parametrize(
    ("page", "model", "data"),
    [("how-to/models-and-data.md", "timm:", "hf:"), ("tutorials/text.md", "hf:", "text:")],
)
def test_a_trained_network_and_its_data_take_no_line_of_code(page: str, model: str, data: str) -> None:
    every = command_lines(ROOT / "docs" / page, not_run=True)
    lines = [words[2:] for words in every if words[:2] == ["dwindle", "compress"]]
    assert any(
        words[0].startswith(model) and "--pretrained" in words and words[words.index("--data") + 1].startswith(data)
        for words in lines
    )


@pytest.mark.parametrize("extra", ["timm", "hf", "datasets", "lightning", "ray"])
def test_the_pages_name_the_extras_of_networks_data_and_training(extra: str) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert extra in extras
    assert re.search(rf"'\.\[(.*,)?{extra}(,.*)?\]'", EVERY)


@pytest.mark.parametrize("option", ["--skip-broken", "--ray", "--tokenizer", "--photographs", "--metric"])
def test_the_pages_name_the_options_of_data_and_sweeps(option: str) -> None:
    assert option in EVERY
