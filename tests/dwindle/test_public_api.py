"""What is public can be imported, says what it is, and can't be mistaken for anything else."""

from __future__ import annotations

import importlib.metadata
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOMS = ("models", "compress", "export", "bench")
PACKAGES = ("dwindle", *(f"dwindle.{room}" for room in ROOMS))
PUBLIC = [(package, name) for package in PACKAGES for name in importlib.import_module(package).__all__]


@pytest.mark.parametrize(("package", "name"), PUBLIC)
def test_every_public_name_is_there_and_documented(package: str, name: str) -> None:
    found = getattr(importlib.import_module(package), name)
    if name == "__version__":
        assert found == importlib.metadata.version("dwindle")
    else:
        assert inspect.isclass(found) or inspect.isfunction(found)
        said = found.__doc__ or ""
        assert said.strip()
        assert not said.startswith(f"{name}(")  # which a dataclass without one is given


FUNCTIONS = [each for each in PUBLIC if inspect.isfunction(getattr(importlib.import_module(each[0]), each[1]))]


@pytest.mark.parametrize(("package", "name"), FUNCTIONS)
def test_every_public_function_describes_its_arguments_errors_and_use(package: str, name: str) -> None:
    function = getattr(importlib.import_module(package), name)
    said = function.__doc__ or ""
    assert [each for each in inspect.signature(function).parameters if not re.search(rf"\b{each}\b", said)] == []
    assert "Raises" in said
    assert f">>> {name}(" in said or f"= {name}(" in said


@pytest.mark.parametrize("package", PACKAGES)
def test_no_public_name_is_that_of_a_submodule(package: str) -> None:
    """Importing the submodule would put it in the name's place."""
    module = importlib.import_module(package)
    assert set(module.__all__).isdisjoint(found.name for found in pkgutil.iter_modules(module.__path__))


@pytest.mark.parametrize("package", PACKAGES)
def test_a_name_that_is_not_there_is_an_attribute_error(package: str) -> None:
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        _ = importlib.import_module(package).nothing_of_the_kind


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_is_not_imported_a_second_time_from_the_repository(room: str) -> None:
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", f"import {room}"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.endswith(
        f"ImportError: this folder is the package `dwindle.{room}`: write `import dwindle.{room}`\n"
    )
