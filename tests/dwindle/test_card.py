"""The model card: Markdown that Hugging Face's hub reads, from what a checkpoint holds, whatever names are in it."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import yaml

from dwindle.card import card
from dwindle.cli import main
from dwindle.errors import UsageError
from tests.dwindle.test_attest import made, net, network

__all__ = ["made", "net"]


def front_matter(text: str) -> dict[str, object]:
    _, matter, _ = text.split("---\n", 2)
    return dict(yaml.safe_load(matter))


def test_of_a_checkpoint(net: Path) -> None:
    text = card(net, spdx_license="Apache-2.0")
    matter = front_matter(text)
    assert matter["license"] == "apache-2.0"
    assert matter["library_name"] == "onnx"
    assert matter["tags"] == ["onnx", "pruned", "dwindle"]
    assert matter["metrics"] == ["accuracy"]
    assert "zoo:resnet8 on digits" in text
    assert "88.50" in text
    assert "dwindle compress zoo:resnet8" in text
    assert "1.0e-06" in text


def test_of_a_file(tmp_path: Path) -> None:
    text = card(network(tmp_path / "net.onnx"))
    assert front_matter(text) == {"library_name": "onnx", "tags": ["onnx", "dwindle"]}
    assert "takes x: float32" in text


def test_names_are_text(tmp_path: Path) -> None:
    model = onnx.load(network(tmp_path / "net.onnx"))
    odd = "<script>|`\n# [a](b)"
    model.graph.output[0].name = model.graph.node[0].output[0] = odd
    path = tmp_path / "<b>|net.onnx"
    onnx.save(model, path)
    text = card(path, spdx_license="MIT\nevil: yes")
    assert "<script>" not in text
    assert "<b>" not in text
    assert "\n# [a]" not in text
    assert set(front_matter(text)) == {"license", "library_name", "tags"}


def test_on_the_command_line(net: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["card", str(net)]) == 0
    printed = capsys.readouterr().out
    assert printed == card(net)
    assert main(["card", str(net), "-o", str(tmp_path / "README.md")]) == 0
    assert (tmp_path / "README.md").read_text() == printed
    assert main(["card", str(net), "-o", str(net / "checkpoint.json")]) == 2
    with pytest.raises(UsageError):
        card(tmp_path / "gone.onnx")
