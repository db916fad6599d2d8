"""A limit on what a profile predicts holds from the manifest alone, and is no pass where nothing can be predicted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dwindle.bench import gate
from dwindle.bench.prices.predicting import Predictor, found
from dwindle.checkpoint import Checkpoint
from dwindle.cli import main
from dwindle.errors import UsageError
from dwindle.manifest import Manifest
from dwindle.price import Shape, shapes_of, tally
from tests.bench.prices.test_profile import made

Export = Callable[..., Manifest]
LAYERS = tally([Shape(64, 64, (14, 14), (3, 3), (1, 1), (1, 1), (1, 1))] * 8)


@pytest.fixture
def manifest(checkpoint: Checkpoint, export: Export, tmp_path: Path) -> Manifest:
    """Of two files that can't be run."""
    for name, size in (("dense", 20_000), ("net", 11_000)):
        (tmp_path / f"{name}.onnx").write_bytes(bytes(size))
    with_layers = replace(export("onnx", tmp_path / "dense.onnx", tmp_path / "net.onnx"), layers=LAYERS)
    with_layers.write(checkpoint.exports / "onnx")
    return with_layers


@pytest.fixture
def limits(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of limits on what the profile beside it predicts."""

    def write(most: object, name: str = "phone.json", **changes: Any) -> Path:
        (folder := tmp_path / "ci").mkdir(exist_ok=True)
        made(**changes).save(folder / "phone.json")
        (folder / "budget.toml").write_text(f'[gate.on."{name}"]\nmax_predicted_latency = {most}\n')
        return folder / "budget.toml"

    return write


@pytest.mark.slow
@pytest.mark.usefixtures("manifest")
def test_it_holds_or_is_missed(checkpoint: Checkpoint, limits: Callable[..., Path]) -> None:
    expected = Predictor(made(), "fp32").network(shapes_of(LAYERS))
    assert not checkpoint.bench_path.exists()
    for most, code in ((1.001 * expected.ms, 0), (0.999 * expected.ms, 3)):
        verdict = gate(checkpoint, limits=limits(most))
        (check,) = verdict.rows
        assert verdict.exit_code == code
        assert (check.name, check.measured, check.passed) == ("max_predicted_latency", expected.ms, code == 0)
        assert check.subject == "onnx on phone.json"
        assert check.reason == f"predicted, not measured: {expected} on ssh://pi@board"
        assert main(["gate", str(checkpoint.path), "--limits", str(limits(most))]) == code


def test_a_profile_that_comes_with_dwindle_is_named(
    checkpoint: Checkpoint, manifest: Manifest, limits: Callable[..., Path]
) -> None:
    folder = checkpoint.exports / "onnx"
    other = folder.rename(folder.with_name("litert"))
    replace(manifest, target="litert").write(other)
    (check,) = gate(checkpoint, limits=limits(1000, "cortex-a76")).rows
    assert (check.target, check.device, check.passed) == ("litert", "cortex-a76", True)
    assert str(found("cortex-a76").source) in str(check.reason)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"target": "litert"}, "litert"),
        ({"runtime": "onnxruntime", "version": "0.1"}, "0.1"),
        ({"timed": ()}, "fp32"),
    ],
)
@pytest.mark.usefixtures("manifest")
def test_a_profile_of_something_else_is_no_pass(
    checkpoint: Checkpoint, limits: Callable[..., Path], changes: dict[str, Any], said: str
) -> None:
    for target in (None, "onnx"):
        verdict = gate(checkpoint, limits=limits(1000, **changes), target=target)
        (check,) = verdict.rows
        assert (check.measured, check.passed, verdict.exit_code) == (None, False, 5)
        assert said in str(check.reason)


def test_layers_that_are_not_known_are_no_pass(
    checkpoint: Checkpoint, manifest: Manifest, limits: Callable[..., Path]
) -> None:
    replace(manifest, layers={}).write(checkpoint.exports / "onnx")
    verdict = gate(checkpoint, limits=limits(1000))
    assert verdict.exit_code == 5
    assert "lists no layers" in str(verdict.rows[0].reason)


@pytest.mark.usefixtures("manifest")
def test_profiles_and_limits_that_are_none_are_refused(checkpoint: Checkpoint, limits: Callable[..., Path]) -> None:
    cases: list[tuple[Callable[[], Path], str]] = [
        (lambda: _damaged(limits(8)), "other-schema"),
        (lambda: limits(8, "tablet.json"), "unreadable"),
        (lambda: limits(-1), "out-of-range"),
        (lambda: limits('"fast"'), "out-of-range"),
    ]
    for make, code in cases:
        with pytest.raises(UsageError) as refused:
            gate(checkpoint, limits=make())
        assert refused.value.code == code
    path = limits(8)
    for text in ("[gate]\nmax_predicted_latency = 8", '[gate.on."phone.json"]\nmax_latency = 8', "[gate.on]\nx = 8"):
        path.write_text(text)
        with pytest.raises(UsageError) as refused:
            gate(checkpoint, limits=path)
        assert refused.value.code == "no-such-limit"


def _damaged(path: Path) -> Path:
    path.with_name("phone.json").write_text("{}")
    return path
