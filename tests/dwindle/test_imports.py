from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path

import pytest

from dwindle.imports import hidden


def test_a_hidden_package_is_as_if_it_were_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("found_later", "found_before"):
        (tmp_path / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    before = import_module("found_before")
    with hidden("found_later", "found_before"):
        with pytest.raises(ImportError):
            import_module("found_later")
        assert import_module("found_before") is before
    assert "found_later" not in sys.modules
    import_module("found_later")


def test_packages_are_back_after_an_error() -> None:
    with pytest.raises(ImportError), hidden("no_such_package"):
        import_module("no_such_package")
    assert "no_such_package" not in sys.modules
