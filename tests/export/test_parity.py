"""Files that are not the network they are said to be, each refused in words that say what is wrong."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.numpy_helper import from_array, to_array
from torch import Tensor, nn

from dwindle.errors import ParityFailed, RuntimeUnavailable
from dwindle.export.fold import deployable
from dwindle.export.onnx.target import Onnx
from dwindle.export.parity import SAMPLES, TOLERANCE, check
from dwindle.export.target import Outputs
from dwindle.models.signature import flat, signature_of
from dwindle.models.zoo import resnet8

Inputs = tuple[Tensor, ...]
Changed = Callable[..., nn.Module]


@pytest.fixture(scope="module")
def original(
    trained: Changed, masked: Changed, example: Inputs, tmp_path_factory: pytest.TempPathFactory
) -> tuple[nn.Module, nn.Module, bytes]:
    """A network at 10% density, what ships of it, and its file."""
    pruned = masked(trained(resnet8(in_channels=1)), 0.1).eval()
    shipped = deployable(pruned, example)
    path = tmp_path_factory.mktemp("parity") / "net.onnx"
    Onnx().write(shipped, example, path, pack=True)
    return pruned, shipped, path.read_bytes()


@pytest.fixture
def pruned(original: tuple[nn.Module, nn.Module, bytes]) -> nn.Module:
    return copy.deepcopy(original[0])


@pytest.fixture
def shipped(original: tuple[nn.Module, nn.Module, bytes]) -> nn.Module:
    return copy.deepcopy(original[1])


@pytest.fixture
def file(original: tuple[nn.Module, nn.Module, bytes], tmp_path: Path) -> Path:
    (tmp_path / "net.onnx").write_bytes(original[2])
    return tmp_path / "net.onnx"


def rewrite(file: Path, ending: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Changes the first tensor of a file whose name ends so: `v` are survivors, `u` where they are."""
    model = onnx.load(file)
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name.endswith(ending))
    tensor.CopyFrom(from_array(change(to_array(tensor).copy()), tensor.name))
    onnx.save(model, file)


def negated_last(values: np.ndarray) -> np.ndarray:
    values[-1] *= -1
    return values


def test_the_file_of_the_network_passes(pruned: nn.Module, shipped: nn.Module, file: Path) -> None:
    inputs = (torch.randn(SAMPLES + 3, 1, 8, 8),)
    parity = check(Onnx(), file, pruned, shipped, inputs)
    assert parity.samples == SAMPLES
    assert parity.weights_equal == 20
    assert parity.top1_agreement == 1
    assert parity.not_run is None
    assert parity.max_abs is not None
    assert parity.relative is not None
    assert 0 < parity.relative < TOLERANCE["fp32"] == parity.tolerance
    with torch.no_grad():
        assert parity.max_abs == pytest.approx(
            parity.relative * float(pruned(inputs[0][:SAMPLES]).abs().max()), rel=0.01
        )


def test_fewer_bits_are_held_against_the_network_they_make(
    pruned: nn.Module, shipped: nn.Module, samples: Inputs, example: Inputs, tmp_path: Path
) -> None:
    target, path = Onnx("int8"), tmp_path / "net.onnx"
    target.write(shipped, example, path, pack=True)
    parity = check(target, path, pruned, shipped, samples)
    assert parity.tolerance == TOLERANCE["fp32"]
    assert parity.weights_equal == 20
    rewrite(path, "v", negated_last)
    with pytest.raises(ParityFailed) as failed:
        check(target, path, pruned, shipped, samples)
    assert failed.value.code == "weights-differ"


def test_rounded_weights_hide_no_lost_batch_norm(
    pruned: nn.Module, shipped: nn.Module, samples: Inputs, example: Inputs, tmp_path: Path
) -> None:
    Onnx("int8").write(shipped, example, tmp_path / "net.onnx", pack=True)
    pruned.stage2[0].bn1.running_mean += 0.01
    with pytest.raises(ParityFailed) as failed:
        check(Onnx("int8"), tmp_path / "net.onnx", pruned, shipped, samples)
    assert (failed.value.code, failed.value.path) == ("outputs-differ", Path("the network with batch norm folded"))


def test_one_packed_weight_that_differs_is_found(
    pruned: nn.Module, shipped: nn.Module, file: Path, samples: Inputs
) -> None:
    rewrite(file, "v", negated_last)
    with pytest.raises(ParityFailed) as failed:
        check(Onnx(), file, pruned, shipped, samples)
    assert (failed.value.code, failed.value.name) == ("weights-differ", "classifier.weight")
    assert "1 of 640 weights" in str(failed.value)


def test_a_flipped_mask_is_found(pruned: nn.Module, shipped: nn.Module, file: Path, samples: Inputs) -> None:
    rewrite(file, "u", lambda mask: np.concatenate([mask[1:3], mask[:1], mask[3:]]))
    with pytest.raises(ParityFailed) as failed:
        check(Onnx(), file, pruned, shipped, samples)
    assert (failed.value.code, failed.value.name) == ("weights-differ", "conv.weight")


@pytest.mark.parametrize(
    ("damage", "why"), [(lambda mask: mask[:-1], r"\d+ bits are numbered"), (lambda mask: mask * 0, "the mask keeps")]
)
def test_a_mask_that_does_not_fit_is_found(
    pruned: nn.Module,
    shipped: nn.Module,
    file: Path,
    samples: Inputs,
    damage: Callable[[np.ndarray], np.ndarray],
    why: str,
) -> None:
    rewrite(file, "u", damage)
    with pytest.raises(ParityFailed) as failed:
        check(Onnx(), file, pruned, shipped, samples)
    assert (failed.value.code, failed.value.path) == ("unreadable", file)
    assert re.search(why, str(failed.value))


def test_an_unpacked_tensor_that_differs_by_rounding_is_found(
    pruned: nn.Module, shipped: nn.Module, file: Path, samples: Inputs
) -> None:
    rewrite(file, "_1", lambda bias: np.nextafter(bias, np.float32(9)))
    with pytest.raises(ParityFailed) as failed:
        check(Onnx(), file, pruned, shipped, samples)
    assert (failed.value.code, failed.value.name) == ("weights-differ", "conv.bias")
    assert "16 of 16 weights" in str(failed.value)


def test_a_lost_batch_norm_shows_in_the_outputs(
    pruned: nn.Module, shipped: nn.Module, file: Path, samples: Inputs
) -> None:
    other = copy.deepcopy(pruned)
    other.stage2[0].bn1.running_mean += 0.5  # the file is that of `shipped`, which is no longer `other` folded
    with pytest.raises(ParityFailed) as failed:
        check(Onnx(), file, other, shipped, samples)
    assert (failed.value.code, failed.value.path) == ("outputs-differ", Path("net.onnx"))


@pytest.mark.parametrize("keep", [0, 1000, -1])
def test_a_truncated_file_is_found(
    pruned: nn.Module, shipped: nn.Module, file: Path, samples: Inputs, keep: int
) -> None:
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ParityFailed) as failed:
        check(Onnx(), file, pruned, shipped, samples)
    assert failed.value.code in ("unreadable", "not-runnable")
    assert failed.value.path == file


def test_outputs_that_are_not_numbers_fail(pruned: nn.Module, shipped: nn.Module, file: Path, samples: Inputs) -> None:
    shipped.conv.bias[0] = np.nan
    rewrite(file, "_1", lambda bias: shipped.conv.bias.numpy())
    with pytest.raises(ParityFailed) as failed:
        check(Onnx(), file, pruned, shipped, samples)
    assert failed.value.code == "outputs-differ"
    pruned.conv.weight.data[0] = np.inf
    with pytest.raises(ParityFailed) as failed:
        check(Onnx(), file, pruned, shipped, samples)
    assert failed.value.code == "not-finite"


class Pairs(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.network(x)
        return logits, logits


def test_a_file_that_lacks_an_output_is_refused(
    pruned: nn.Module, shipped: nn.Module, file: Path, samples: Inputs
) -> None:
    with pytest.raises(ParityFailed) as failed:
        check(Onnx(), file, Pairs(pruned), shipped, samples)
    assert failed.value.code == "outputs-differ"


class Elsewhere(Onnx):
    """A target whose runtime is not on this machine."""

    def run(self, path: Path, inputs: Inputs, *, batch: int = 1) -> Outputs:
        raise RuntimeUnavailable("it runs on other machines only")


class Opaque(Elsewhere):
    def decode(self, path: Path, module: nn.Module) -> dict[str, np.ndarray]:
        return {}


def test_without_the_runtime_the_weights_must_do(
    pruned: nn.Module, shipped: nn.Module, file: Path, samples: Inputs
) -> None:
    with pytest.raises(RuntimeUnavailable):
        check(Elsewhere(), file, pruned, shipped, samples)
    parity = check(Elsewhere(), file, pruned, shipped, samples, unproven=True)
    assert (parity.relative, parity.samples, parity.weights_equal) == (None, 0, 20)
    assert parity.not_run == "it runs on other machines only; 20 of 20 tensors were compared bit for bit instead"
    with pytest.raises(RuntimeUnavailable) as unavailable:
        check(Opaque(), file, pruned, shipped, samples, unproven=True)
    assert (unavailable.value.code, unavailable.value.path) == ("nothing-to-compare", file)


class Off(Onnx):
    """A runtime that computes in other ways."""

    def run(self, path: Path, inputs: Inputs, *, batch: int = 1) -> Outputs:
        (answer,) = super().run(path, inputs)
        answer[0, 0] += 1e-3 * np.abs(answer).max()
        return (answer,)


def test_a_given_tolerance_is_recorded_beside_what_rounding_explains(
    pruned: nn.Module, shipped: nn.Module, file: Path, samples: Inputs
) -> None:
    with pytest.raises(ParityFailed) as failed:
        check(Off(), file, pruned, shipped, samples)
    assert failed.value.code == "outputs-differ"
    parity = check(Off(), file, pruned, shipped, samples, tolerance=5e-3)
    assert (parity.tolerance, parity.explained) == (5e-3, TOLERANCE["fp32"])
    assert parity.widened is not None
    assert "tolerance 0.005 that was given, where rounding explains 1e-04" in parity.widened
    with pytest.raises(ParityFailed) as failed:
        check(Off(), file, pruned, shipped, samples, tolerance=5e-4)
    assert "`tolerance` allows 0.0005 and rounding explains 1e-04" in str(failed.value)
    narrowed = check(Onnx(), file, pruned, shipped, samples, tolerance=9e-5)
    assert (narrowed.tolerance, narrowed.widened) == (9e-5, None)


class Marks(nn.Module):
    """Scores, and a mask that is a buffer's, whatever the image."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(6, 3)
        self.register_buffer("shape", torch.ones(1, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores = self.scores(x)
        return scores, self.shape.expand(len(x), -1) + 0 * scores


def test_an_output_that_never_varies_is_said_by_name(tmp_path: Path) -> None:
    inputs = (torch.randn(8, 6),)
    network = flat(Marks().eval(), signature_of(Marks().eval(), inputs))
    shipped = deployable(network, (inputs[0][:1],))
    Onnx().write(shipped, (inputs[0][:1],), tmp_path / "net.onnx", pack=True)
    parity = check(Onnx(), tmp_path / "net.onnx", network, shipped, inputs)
    assert parity.constant == ("output_1",)
    assert len(parity.doubts) == 1
    assert "output_1 alike for all 8 samples" in parity.doubts[0]
    alone = check(Onnx(), tmp_path / "net.onnx", network, shipped, (inputs[0][:1],))
    assert alone.constant == (), "of one sample nobody can say"


def test_where_the_first_samples_are_alike_others_are_compared(tmp_path: Path) -> None:
    network, inputs = nn.Linear(6, 3).eval(), torch.ones(3 * SAMPLES, 6)
    shipped = deployable(network, (inputs[:1],))
    Onnx().write(shipped, (inputs[:1],), tmp_path / "net.onnx", pack=True)
    assert check(Onnx(), tmp_path / "net.onnx", network, shipped, (inputs,)).constant == ("output",)
    inputs[2 * SAMPLES :] = torch.randn(SAMPLES, 6)
    parity = check(Onnx(), tmp_path / "net.onnx", network, shipped, (inputs,))
    assert (parity.constant, parity.samples) == ((), SAMPLES)
