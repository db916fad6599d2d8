"""What the Core ML export makes of PyTorch's operators: right, refused in a sentence, or unproven; never wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dwindle.errors import DwindleError, ParityFailed, UsageError
from dwindle.export import parity
from dwindle.export.coreml.target import CoreML
from dwindle.export.fold import deployable
from dwindle.manifest import Parity
from studies.operators.cases import CASES, IMAGE, Of

CLOSE = 1.5e-3
"""Over the largest output: fp16 rounds each of a few results by 5e-4 at most."""
STEEP = {"remainder": 1e-2, "sin": 1e-2}
"""Functions that answer to the rounding of a large input with more than that."""

NOT: dict[str, tuple[type[DwindleError], str]] = {
    "grid_sample nearest": (ParityFailed, "unproven"),
    "argmin of equal values": (ParityFailed, "unproven"),
    "topk of equal values, places": (ParityFailed, "unproven"),
    "random": (ParityFailed, "unproven"),
    "nan_to_num": (ParityFailed, "unproven"),
    "antialias": (UsageError, "not-convertible"),
    "erfinv": (UsageError, "not-convertible"),
    "index_add": (UsageError, "not-convertible"),
    "median": (UsageError, "not-convertible"),
    "complex": (UsageError, "not-convertible"),
    "diagonal": (UsageError, "not-convertible"),
    "fmod": (UsageError, "not-convertible"),
    "hardshrink": (UsageError, "not-convertible"),
    "prod": (UsageError, "not-convertible"),
}


def compared(module: nn.Module, x: Tensor, folder: Path) -> Parity:
    shipped, path = deployable(module.eval(), (x,)), folder / "net.mlpackage"
    target = CoreML().holding(shipped, (x,), (x,))
    target.write(shipped, (x,), path, pack=True)
    return parity.check(target, path, module, shipped, (x,))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(CASES.keys() - NOT.keys()))
def test_an_operator_is_right(name: str, tmp_path: Path) -> None:
    made, x = CASES[name]
    found = compared(made(), x, tmp_path)
    assert found.relative is not None
    assert found.relative < STEEP.get(name, CLOSE)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOT)
def test_what_is_not_right_is_not_kept(name: str, tmp_path: Path) -> None:
    (made, x), (kind, code) = CASES[name], NOT[name]
    with pytest.raises(kind) as raised:
        compared(made(), x, tmp_path)
    assert raised.value.code == code


@pytest.mark.slow
def test_a_bilinear_layer_of_two_branches_is_written(tmp_path: Path) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.both = nn.Linear(6, 5), nn.Linear(6, 4), nn.Bilinear(5, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            answer: Tensor = self.both(self.first(x), self.second(x))
            return answer

    torch.manual_seed(0)
    found = compared(Two(), torch.randn(1, 6), tmp_path)
    assert found.relative is not None
    assert found.relative < CLOSE


class Subsequent(nn.Module):
    """Adds torch's own causal mask to scores: a triangle of a matrix of infinities."""

    def forward(self, x: Tensor) -> Tensor:
        return (x + nn.Transformer.generate_square_subsequent_mask(x.shape[-1])).softmax(-1)


class Turned(nn.Module):
    """A spatial transformer's two operators."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Linear(36, 6)

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.place(x.flatten(1)[:, :36]).view(-1, 2, 3)
        grid = F.affine_grid(matrix, [len(x), x.shape[1], 5, 4], align_corners=False)
        return F.grid_sample(x, grid, align_corners=False)


@pytest.mark.slow
@pytest.mark.parametrize("module", [Subsequent, Turned])
def test_what_the_converter_has_another_way_is_written_pytorchs(module: type[nn.Module], tmp_path: Path) -> None:
    torch.manual_seed(0)
    found = compared(module(), torch.randn(1, 2, 6, 6), tmp_path)
    assert found.relative is not None
    assert found.relative < 5e-3  # between pixels the answer is as steep as they differ


def test_the_table_has_many() -> None:
    assert len(CASES) >= 116
    assert CASES.keys() >= NOT.keys()


@pytest.mark.slow
def test_an_unproven_file_is_kept_where_asked_for(tmp_path: Path) -> None:
    """Of random numbers nothing can be proven: the sentence names the operator, and the parity says so."""
    module = nn.Sequential(nn.Conv2d(4, 4, 1), Of(lambda x: x + torch.randn_like(x))).eval()
    shipped, path = deployable(module, (IMAGE,)), tmp_path / "net.mlpackage"
    CoreML().write(shipped, (IMAGE,), path, pack=True)
    with pytest.raises(ParityFailed) as raised:
        parity.check(CoreML(), path, module, shipped, (IMAGE,))
    assert (raised.value.code, raised.value.name) == ("unproven", "random_normal")
    found = parity.check(CoreML(), path, module, shipped, (IMAGE,), unproven=True)
    assert found.relative is None
    assert found.not_run is not None
    assert "random_normal" in found.not_run
    assert found.weights_equal
