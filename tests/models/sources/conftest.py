from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
Cached = Callable[[str], Path]


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cached:
    """Makes the folder in which the Hub's own library keeps a repository that it has fetched, and no network."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    def make(repository: str) -> Path:
        top = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (top / "refs").mkdir(parents=True)
        (top / "refs" / "main").write_text(COMMIT)
        folder = top / "snapshots" / COMMIT
        folder.mkdir(parents=True)
        return folder

    return make
