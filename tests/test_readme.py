"""The README's Python, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

README = Path(__file__).parent.parent / "README.md"


@pytest.mark.usefixtures("short_slices")
def test_the_lines_of_python_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = "".join(re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL))
    # The same lines on a shorter training and measurement, so that the fast suite stays fast.
    quick = code.replace('task="digits"', 'task={"data": "digits", "epochs": 4}, rounds=2')
    assert quick != code
    monkeypatch.chdir(tmp_path)
    ran: dict[str, object] = {}
    exec(quick, ran)
    assert (tmp_path / "net.dwindle/exports/onnx/net.onnx").stat().st_size <= 25_000
    assert ran["page"]
    assert isinstance(ran["network"], torch.nn.Module)
    assert Path(str(ran["page"])).exists()


def test_every_option_the_readme_names_exists() -> None:
    from dwindle.grammar import Grammar

    known = {flag for sub in Grammar().commands.values() for action in sub._actions for flag in action.option_strings}
    ours = re.sub(r"torchrun .*? -m dwindle", "dwindle", README.read_text())  # what torchrun takes is its own affair
    ours = re.sub(r"-Wl,\S+", "", ours)  # nor what a linker takes
    ours = re.sub(r"python -m studies\.[^`]*", "", ours)  # or a study
    named = set(re.findall(r"(?<![-\w])--[a-z][a-z-]+", ours))
    assert named <= known, named - known
