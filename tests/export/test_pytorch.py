from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import ParityFailed, UsageError
from dwindle.export.fold import deployable, tensors
from dwindle.export.parity import check
from dwindle.export.pytorch import PyTorch, read
from dwindle.models.zoo import resnet8

Inputs = tuple[Tensor, ...]
Changed = Callable[..., nn.Module]


class Written(NamedTuple):
    network: nn.Module
    shipped: nn.Module
    net: Path


@pytest.fixture(scope="module")
def written(trained: Changed, masked: Changed, example: Inputs, tmp_path_factory: pytest.TempPathFactory) -> Written:
    path = tmp_path_factory.mktemp("pytorch") / "net.pt2"
    network = masked(trained(resnet8(in_channels=1)), 0.1).eval()
    shipped = deployable(network, example)
    assert PyTorch().write(shipped, example, path, pack=True) == "dense fp32"
    return Written(network, shipped, path)


def test_the_file_is_the_network(written: Written, samples: Inputs) -> None:
    parity = check(PyTorch(), written.net, written.network, written.shipped, samples)
    assert parity.weights_equal == len(list(written.shipped.parameters())) == 20


def test_buffers_and_weights_with_two_names_are_read_back(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again = nn.Linear(6, 6), nn.Linear(6, 6)
            self.again.weight = self.first.weight
            self.register_buffer("scale", torch.rand(6))
            self.register_buffer("shift", torch.rand(6), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            return self.again(self.first(x)) * self.scale + self.shift

    network, x = Tied().eval().requires_grad_(False), torch.randn(1, 6)
    PyTorch().write(network, (x,), tmp_path / "net.pt2", pack=True)
    held = PyTorch().decode(tmp_path / "net.pt2", network)
    assert held.keys() == {"first.weight", "first.bias", "again.weight", "again.bias", "scale", "shift"}
    for name, array in held.items():
        np.testing.assert_array_equal(array, tensors(network)[name].numpy())
    np.testing.assert_array_equal(PyTorch().run(tmp_path / "net.pt2", (x,))[0], network(x).numpy())


def test_torch_alone_runs_it(written: Written, example: Inputs) -> None:
    """As somebody would who has neither dwindle nor the model's code."""
    answer = torch.export.load(written.net).module()(*example)
    torch.testing.assert_close(answer, written.shipped(*example))


def test_it_says_nothing_of_this_machine(written: Written) -> None:
    assert str(Path(torch.__file__).parent.parent).encode() not in written.net.read_bytes()
    assert b"models/zoo.py" not in written.net.read_bytes()


def test_the_packer_says_what_write_wrote_whatever_the_zeros(
    written: Written, example: Inputs, trained: Changed, masked: Changed
) -> None:
    assert not PyTorch().packs_zeros
    packed_bytes = PyTorch().packer(trained(resnet8(in_channels=1), seed=5), example)
    assert packed_bytes(written.network) == packed_bytes(masked(resnet8(in_channels=1), 0.01))
    assert packed_bytes(written.network) == written.net.stat().st_size


def test_one_weight_that_differs_is_found(written: Written, samples: Inputs, tmp_path: Path) -> None:
    weight = written.shipped.stage2[0].conv2.weight
    content = bytearray(written.net.read_bytes())
    place = content.index(weight.numpy().tobytes()) + 4 * int(weight.flatten().nonzero()[7])
    content[place] ^= 1  # the last bit of one fp32 weight
    (tmp_path / "net.pt2").write_bytes(content)
    with pytest.raises(ParityFailed) as failed:
        check(PyTorch(), tmp_path / "net.pt2", written.network, written.shipped, samples)
    assert failed.value.code in ("weights-differ", "unreadable")


@pytest.mark.parametrize("keep", [0, 5000, -1])
def test_a_truncated_file_is_found(written: Written, samples: Inputs, tmp_path: Path, keep: int) -> None:
    (tmp_path / "net.pt2").write_bytes(written.net.read_bytes()[:keep])
    with pytest.raises(ParityFailed) as failed:
        check(PyTorch(), tmp_path / "net.pt2", written.network, written.shipped, samples)
    assert failed.value.code == "unreadable"


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, ("exploded",))


def _pickled() -> bytes:
    content = io.BytesIO()
    torch.save(Bomb(), content)
    return content.getvalue()


def _rewritten(path: Path, to: Path, changed: Callable[[str, bytes], bytes], extra: dict[str, bytes]) -> None:
    """The archive with its members changed; what they are worth to torch is for the test to say."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(to, "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, changed(entry.filename, old.read(entry)))
        for name, content in extra.items():
            new.writestr(f"archive/{name}", content)


@pytest.mark.parametrize("place", ["data/sample_inputs/model.pt", "data/weights/weight_0"])
def test_a_pickle_is_never_loaded(
    written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.chdir(tmp_path)

    def changed(name: str, content: bytes) -> bytes:
        if name.endswith(place):
            return _pickled()
        if place.endswith("weight_0") and name.endswith("weights_config.json"):
            return content.replace(b'"use_pickle": false', b'"use_pickle": true', 1)
        return content

    evil = tmp_path / "net.pt2"
    _rewritten(written.net, evil, changed, {})
    with pytest.raises(UsageError) as refused:
        read(evil)
    assert refused.value.code == "executable-part"
    assert str(refused.value.name).startswith("data/")
    assert not Path("exploded").exists()
    with suppress(Exception):  # it goes off before torch finds that it isn't a tensor
        torch.export.load(evil)  # or else this test would prove nothing
    assert Path("exploded").exists()


@pytest.mark.parametrize("name", ["data/aotinductor/model/lib.so", "data/constants/custom_obj_0", "extra/hook.py"])
def test_nor_anything_else_that_dwindle_does_not_write(written: Written, tmp_path: Path, name: str) -> None:
    _rewritten(written.net, tmp_path / "net.pt2", lambda _, content: content, {name: b"\x7fELF"})
    with pytest.raises(UsageError) as refused:
        read(tmp_path / "net.pt2")
    assert (refused.value.code, refused.value.name) == ("executable-part", name)
