"""What pyproject.toml says of versions is true of those that the tests run with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}
UNTRIED = {"ipywidgets"}
"""What no test needs: a live line in a notebook is rich's affair."""
EXTRAS = {"": PROJECT["dependencies"], **PROJECT["optional-dependencies"]}
BOUNDS = sorted({line for lines in EXTRAS.values() for line in lines if not line.startswith("dwindle")})


@pytest.mark.parametrize("bound", BOUNDS)
def test_a_bound_allows_the_version_that_the_tests_run_with(bound: str) -> None:
    required = Requirement(bound)
    assert required.specifier, "from which version on?"
    if required.name not in UNTRIED:
        assert required.specifier.contains(PINS[canonicalize_name(required.name)])


def test_one_package_has_one_bound() -> None:
    names = [canonicalize_name(Requirement(line).name) for line in BOUNDS]
    assert {name for name in names if names.count(name) > 1} == set()


def test_the_classifiers_name_the_python_that_ci_runs() -> None:
    named = {line.rpartition(" :: ")[2] for line in PROJECT["classifiers"] if " :: Python :: 3." in line}
    assert "3.11" in named
    assert PROJECT["requires-python"] == f">={min(named, key=lambda each: int(each.partition('.')[2]))}"
