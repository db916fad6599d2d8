"""The contract of a target: what a third party has to implement, and what it gets by default."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from dwindle import registry
from dwindle.errors import UsageError
from dwindle.export import targets
from dwindle.export.coreml.interface import Interface
from dwindle.export.fold import deployable
from dwindle.export.one_target import export_networks
from dwindle.export.parity import check
from dwindle.export.target import Outputs, Target
from dwindle.export.targets import load, require_inputs
from dwindle.manifest import Manifest
from dwindle.signature import Input, Signature

OURS = ["coreml", "executorch", "executorch-coreml", "litert", "mnn", "onnx", "pytorch"]
EXAMPLE = (torch.zeros(1, 4),)


class Raw(Target):
    """The least that a target can be: the tensors of a linear layer one after the other."""

    name = "raw"
    suffix = ".raw"
    precisions = ("fp32", "fp16")
    packages = ("numpy",)

    def write(self, module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, pack: bool) -> str:
        module = self.as_stored(module, activations=False)
        path.write_bytes(b"".join(tensor.numpy().tobytes() for tensor in module.parameters()))
        return f"dense {self.precision}"

    def packer(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], int]:
        return lambda candidate: 4 * sum(tensor.numel() for tensor in candidate.parameters())

    def run(self, path: Path, inputs: tuple[Tensor, ...], *, batch: int = 1) -> Outputs:
        values = np.fromfile(path, np.float32)
        weight, bias = values[:-2].reshape(2, 4), values[-2:]
        return (inputs[0].numpy() @ weight.T + bias,)

    def decode(self, path: Path, module: nn.Module) -> dict[str, np.ndarray]:
        values = np.fromfile(path, np.float32)
        return {"weight": values[:-2].reshape(2, 4), "bias": values[-2:]}


def registered(monkeypatch: pytest.MonkeyPatch, kind: Any) -> None:
    monkeypatch.setattr(registry, "resolve", lambda group, name, what: kind)


@pytest.mark.parametrize("precision", Raw.precisions)
def test_the_least_target_exports_with_all_defaults(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered(monkeypatch, Raw)
    target = targets.load("raw", precision, "iOS18")  # of no use to it, but perhaps to another target
    assert (target.precision, target.min_os, target.arithmetic) == (precision, None, "fp32")
    assert not any((target.packs_zeros, target.calibrates, target.zstd, target.systems, target.takes_interface))
    assert (target.note, target.stand_in, target.samples) == (None, None, None)
    network = nn.Linear(4, 2).eval()
    shipped, real = deployable(network, EXAMPLE), (torch.randn(5, 4),)
    networks = {"net": (network, shipped), "dense": (network, shipped)}
    manifest = export_networks(networks, EXAMPLE, real, tmp_path / "raw", target)
    assert manifest.parity.weights_equal == 2
    assert manifest.breakdown is None
    assert manifest == Manifest.read(tmp_path / "raw")
    assert check(target, tmp_path / "raw" / "net.raw", network, shipped, real).samples == 5


def test_the_least_target_takes_no_interface() -> None:
    with pytest.raises(UsageError) as refused:
        Raw().with_interface(Interface())
    assert (refused.value.code, refused.value.name) == ("no-interface", "raw")


def test_a_precision_that_is_unknown_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    registered(monkeypatch, Raw)
    with pytest.raises(UsageError) as refused:
        targets.load("raw", "int8")
    assert (refused.value.code, refused.value.option, refused.value.name) == ("unknown-precision", "precision", "raw")
    assert "fp32 or fp16" in str(refused.value)


class Incomplete(Target):
    name = "incomplete"
    suffix = ".x"
    packages = ()

    def write(self, module: nn.Module, inputs: tuple[Tensor, ...], path: Path, *, pack: bool) -> str:
        return ""


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (object, "it is not a subclass of dwindle.export.target.Target"),
        (len, "it is not a subclass of dwindle.export.target.Target"),
        (Raw(), "it is not a subclass of dwindle.export.target.Target"),
        (Incomplete, "it lacks decode, packer, precisions, run"),
    ],
)
def test_what_is_no_target_is_refused_in_a_sentence(kind: Any, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    registered(monkeypatch, kind)
    with pytest.raises(UsageError) as refused:
        targets.load("theirs")
    assert (refused.value.code, refused.value.option, refused.value.name) == ("not-a-target", "target", "theirs")
    assert reason in str(refused.value)


def test_every_target_of_ours_is_one() -> None:
    assert registry.names(targets.GROUP) == OURS
    for name in OURS:
        kind = registry.resolve(targets.GROUP, name, "target")
        assert issubclass(kind, Target)
        assert kind.name == name
        assert not kind.__abstractmethods__


@pytest.mark.parametrize(
    ("target", "dtype"),
    [
        ("coreml", "uint8"),
        ("coreml", "int8"),
        ("onnx", "complex64"),
        pytest.param("mnn", "uint8", marks=pytest.mark.needs("mnn")),
        pytest.param("litert", "complex64", marks=pytest.mark.needs("litert")),
    ],
)
def test_a_dtype_that_a_format_has_not_is_refused_by_the_inputs_name(target: str, dtype: str) -> None:
    inputs = (Input("image", (1, 3), "float32"), Input("mask", (1, 3), dtype))
    with pytest.raises(UsageError) as refused:
        require_inputs(load(target), Signature(inputs, ()))
    assert (refused.value.code, refused.value.name) == ("no-such-dtype", "mask")


@pytest.mark.parametrize(
    "target",
    [
        "coreml",
        "executorch",
        pytest.param("litert", marks=pytest.mark.needs("litert")),
        pytest.param("mnn", marks=pytest.mark.needs("mnn")),
        "onnx",
        "pytorch",
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "int64", "int32", "bool"])
def test_every_format_has_the_dtypes_of_tokens_and_masks(target: str, dtype: str) -> None:
    require_inputs(load(target), Signature((Input("x", (1, 3), dtype),), ()))


def test_of_a_precision_that_a_target_lacks_its_own_are_listed_with_the_systems_that_have_them() -> None:
    with pytest.raises(UsageError) as refused:
        targets.load("coreml", "palette5")
    for words in ("palette4 or", "palette2 (iOS18)", "mixed (iOS18)", "w8a8 (iOS17)"):
        assert words in str(refused.value)
    for precision, system in (("palette2", "iOS17"), ("mixed", "iOS17"), ("w8a8", "iOS16")):
        with pytest.raises(UsageError) as old:
            targets.load("coreml", precision, system)
        assert (old.value.code, old.value.option) == ("system-too-old", "min_os")
        assert targets.load("coreml", precision, targets.load("coreml").since[precision]).precision == precision
