from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from torch import Tensor, nn

from dwindle.export.executorch import ExecuTorch
from dwindle.export.fold import deployable
from dwindle.models.zoo import resnet8

Inputs = tuple[Tensor, ...]
Changed = Callable[..., nn.Module]


class Written(NamedTuple):
    shipped: nn.Module
    net: Path
    outputs: np.ndarray
    packed_bytes: Callable[[nn.Module], int]
    printed: str


@pytest.fixture(scope="module")
def written(
    trained: Changed,
    masked: Changed,
    example: Inputs,
    samples: Inputs,
    captured_output: Callable[[Path], AbstractContextManager[None]],
    tmp_path_factory: pytest.TempPathFactory,
) -> Written:
    folder = tmp_path_factory.mktemp("executorch")
    network = masked(trained(resnet8(in_channels=1)), 0.1)
    shipped = deployable(network, example)
    with captured_output(folder / "printed"):
        assert ExecuTorch().write(shipped, example, folder / "net.pte", pack=True) == "dense fp32"
        packed_bytes = ExecuTorch().packer(trained(resnet8(in_channels=1), seed=5), example)
        outputs = ExecuTorch().run(folder / "net.pte", samples)
    return Written(shipped, folder / "net.pte", outputs, packed_bytes, (folder / "printed").read_text())


def test_the_file_computes_what_the_network_does(written: Written, samples: Inputs) -> None:
    assert written.outputs.shape == (len(samples[0]), 10)
    np.testing.assert_allclose(written.outputs, written.shipped(*samples).numpy(), rtol=1e-4, atol=1e-5)


def test_nothing_is_printed(written: Written) -> None:
    assert written.printed == ""


def test_the_packer_says_what_write_wrote_whatever_the_zeros(written: Written, masked: Changed) -> None:
    assert written.packed_bytes(written.shipped) == written.net.stat().st_size
    assert written.packed_bytes(masked(resnet8(in_channels=1), 0.01)) == written.net.stat().st_size


def test_nothing_is_packed(written: Written) -> None:
    assert not ExecuTorch().packs_zeros
    assert ExecuTorch().decode(written.net, written.shipped) == {}


def test_a_truncated_file_does_not_run(written: Written, samples: Inputs, tmp_path: Path) -> None:
    (tmp_path / "net.pte").write_bytes(written.net.read_bytes()[:5000])
    with pytest.raises(RuntimeError):
        ExecuTorch().run(tmp_path / "net.pte", samples)
