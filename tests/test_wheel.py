"""A wheel holds what the repository's folders do: every package and every file beside its modules."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = {package: ROOT / folder for package, folder in SETUPTOOLS["package-dir"].items()}
"""The folder of each package at the top; those within have the folders of their names."""


def _folder(package: str) -> Path:
    top = max((name for name in FOLDERS if f"{package}.".startswith(f"{name}.")), key=len)
    return FOLDERS[top].joinpath(*package.removeprefix(top).split("."))


def test_every_folder_of_modules_is_a_package_that_is_listed() -> None:
    there = {path.parent for folder in FOLDERS.values() for path in folder.rglob("*.py")}
    native = FOLDERS["dwindle.bench"] / "native"
    listed = {_folder(package) for package in SETUPTOOLS["packages"]}
    assert there - {native} == listed


def test_every_file_beside_the_modules_is_package_data() -> None:
    data = SETUPTOOLS["package-data"]
    held = {
        path
        for package in SETUPTOOLS["packages"]
        for pattern in [*data["*"], *data.get(package, [])]
        for path in _folder(package).glob(pattern)
    }
    there = {
        path
        for folder in FOLDERS.values()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert len(there) > 20
    assert there - held == set()
