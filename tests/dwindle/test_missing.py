"""A command that lacks its packages says the line that installs them."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import requires
from pathlib import Path

import pytest

from dwindle import missing


@pytest.mark.parametrize(
    ("module", "command", "line"),
    [
        ("torch", "compress", "pip install 'dwindle[compress]'"),
        ("torch.nn", "export", "pip install 'dwindle[export]'"),
        ("torch", "bench", "pip install 'dwindle[all]'"),
        ("sklearn", "compress", "pip install 'dwindle[compress]'"),
        ("ml_dtypes", "export", "pip install 'dwindle[export]'"),
        ("coremltools", "compress", "pip install 'dwindle[all]'"),
        ("gymnasium", "compress", "pip install 'dwindle[amc]'"),
        ("nothing_of_ours", "compress", None),
    ],
)
def test_the_line(module: str, command: str, line: str | None) -> None:
    assert missing.line(ModuleNotFoundError(name=module), command) == line


def test_a_command_without_pytorch(tmp_path: Path) -> None:
    program = "import sys; sys.modules['torch'] = None; from dwindle.cli import main; sys.exit(main(sys.argv[1:]))"
    options = ["compress", "zoo:resnet8", "--data", "digits", "--size", "10KB", "-o", str(tmp_path / "net.dwindle")]
    done = subprocess.run([sys.executable, "-c", program, *options], capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert (
        done.stderr.strip() == "dwindle: compress needs torch, which is not installed: pip install 'dwindle[compress]'"
    )
    assert not (tmp_path / "net.dwindle").exists()


def test_extras_bring_all_that_every_installation_had() -> None:
    base = [line for line in requires("dwindle") or [] if "extra ==" not in line]
    assert {line.split(">")[0] for line in base} == {
        "numpy",
        "safetensors",
        "rich",
        "jinja2",
        "packaging",
        "tomlkit",
        "shtab",
    }
