"""Every byte of a checkpoint is vouched for: no flip, cut or missing file goes unnoticed or unnamed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dwindle.errors import CheckpointError
from dwindle.sealed import read_tensors, seal, unseal


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tied = torch.arange(6.0)
    seal(tmp_path, "doc.json", {"a": 1}, {"weights": {"x": tied, "y": tied.view(2, 3).t()}})
    return tmp_path


def test_what_is_sealed_comes_back(folder: Path) -> None:
    assert unseal(folder, "doc.json")["a"] == 1
    tensors = read_tensors(folder, "weights")
    assert torch.equal(tensors["x"], torch.arange(6.0))
    assert torch.equal(tensors["y"], torch.arange(6.0).view(2, 3).t())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(name=st.sampled_from(["doc.json", "weights.safetensors"]), data=st.data())
def test_any_flipped_byte_is_refused_and_its_file_named(folder: Path, name: str, data: st.DataObject) -> None:
    path = folder / name
    good = path.read_bytes()
    at, bit = data.draw(st.integers(0, len(good) - 2)), data.draw(st.integers(0, 7))
    path.write_bytes(good[:at] + bytes([good[at] ^ (1 << bit)]) + good[at + 1 :])
    try:
        with pytest.raises(CheckpointError, match=name):
            unseal(folder, "doc.json")
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("name", ["doc.json", "weights.safetensors"])
def test_a_missing_or_truncated_file_is_named(folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(CheckpointError, match=name):
        unseal(folder, "doc.json")
    path.unlink()
    with pytest.raises(CheckpointError, match=name):
        unseal(folder, "doc.json")


@pytest.mark.parametrize("text", ["[]", "3", "null", '"a"', "{}"])
def test_json_of_another_kind_is_named(folder: Path, text: str) -> None:
    (folder / "doc.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"doc\.json"):
        unseal(folder, "doc.json")
