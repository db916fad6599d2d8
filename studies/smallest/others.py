"""What an engineer would do without dwindle, each swept over its settings: the smallest file within a point."""

from __future__ import annotations

import copy
import io
import shutil
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from pathlib import Path
from typing import Any

from torch import nn

from dwindle.export.fold import deployable
from dwindle.export.shipping import as_file, calibrated, running
from dwindle.export.target import Target
from dwindle.export.targets import load
from dwindle.files import deflated_bytes, raw_bytes
from dwindle.models.checked_task import CheckedTask
from dwindle.models.classify import ImageClassification
from dwindle.models.tasks import make_task
from dwindle.quiet import quiet

INT8 = {"executorch": "w8a8"}
"""The precision that stands for int8 here, where it is another."""


@dataclass(frozen=True, eq=False)
class Start:
    """The dense network that every way starts from."""

    task: ImageClassification
    network: nn.Module
    weights: Path
    seed: int
    epochs: int
    """Of a retraining."""


@dataclass(frozen=True)
class Found:
    """The smallest file of a way that stays within a point."""

    bytes: int
    deflated: int
    validation: float
    test: float
    settings: str
    rounds: int = 0
    """Trainings that it took after the dense one."""


def judged(target: Target, path: Path, task: ImageClassification) -> tuple[float, float]:
    """Accuracy on validation and test of a file, by its runtime."""
    net = running(target, path)
    return task.evaluate(net, "validation"), task.evaluate(net, "test")


def written(kind: str, network: nn.Module, task: ImageClassification, folder: Path) -> Path:
    """Writes a network at int8, as dwindle would; for ExecuTorch at w8a8."""
    target = calibrated(load(kind, INT8.get(kind, "int8")), CheckedTask(task))
    path = folder / f"net{target.suffix}"
    target.write(deployable(network, task.example_inputs()), task.example_inputs(), path, pack=True)
    return path


def smallest(
    files: Iterator[tuple[str, Path, Path]], kind: str, task: ImageClassification, floor: float
) -> Found | None:
    """Of files, each with its settings in words and a form of it that the target runs, the smallest that holds."""
    best = None
    for settings, path, runs in files:
        size = raw_bytes(path)
        if best and size >= best.bytes:
            continue
        validation, test = judged(load(kind), runs, task)
        print(f"  {settings}: {size:,} bytes, validation {validation:.2f}", flush=True)
        if validation >= floor:
            best = Found(size, deflated_bytes(path), validation, test, settings)
    return best


def onnxruntime_int8(start: Start, folder: Path, *, floor: float, rounds: int) -> Found | None:
    """onnxruntime's own static quantization: QDQ, int8 weights with or without a scale per channel."""
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    dense = folder / "dense.onnx"
    example = start.task.example_inputs()
    load("onnx").write(deployable(start.network, example), example, dense, pack=False)

    class Samples(CalibrationDataReader):
        def __init__(self) -> None:
            import onnxruntime

            name = onnxruntime.InferenceSession(str(dense)).get_inputs()[0].name
            self.left = iter([{name: image.numpy()} for image in start.task.inputs("train")[0].split(1)])

        def get_next(self) -> dict[str, Any] | None:
            return next(self.left, None)

    def files() -> Iterator[tuple[str, Path, Path]]:
        for per_channel in (True, False):
            path = folder / f"int8 {per_channel}.onnx"
            quantize_static(str(dense), str(path), Samples(), per_channel=per_channel, weight_type=QuantType.QInt8)
            yield ("a scale per channel" if per_channel else "a scale per tensor"), path, path

    return smallest(files(), "onnx", start.task, floor)


def executorch_int8(start: Start, folder: Path, *, floor: float, rounds: int) -> Found | None:
    """ExecuTorch's own: PT2E for XNNPACK, static, a scale per channel."""

    def files() -> Iterator[tuple[str, Path, Path]]:
        path = written("executorch", start.network, start.task, folder)
        yield "a scale per channel", path, path

    return smallest(files(), "executorch", start.task, floor)


def coremltools_optimize(
    start: Start, folder: Path, *, floor: float, rounds: int, only_int8: bool = False
) -> Found | None:
    """coremltools.optimize after training: palettes, integers, pruning by magnitude, and two of them at once."""
    with quiet():
        import coremltools
        import coremltools.optimize.coreml as cto

    dense = folder / "dense.mlpackage"
    example = start.task.example_inputs()
    load("coreml", "fp16", "iOS18").write(deployable(start.network, example), example, dense, pack=False)
    all_of_them = {"weight_threshold": 256}

    def of(config: Any) -> Any:
        return cto.OptimizationConfig(global_config=config)

    def palette(bits: int) -> Any:
        return of(cto.OpPalettizerConfig(nbits=bits, mode="kmeans", **all_of_them))

    def integers(dtype: str, granularity: str) -> Any:
        return of(
            cto.OpLinearQuantizerConfig(mode="linear_symmetric", dtype=dtype, granularity=granularity, **all_of_them)
        )

    def pruned(share: float) -> Any:
        return of(cto.OpMagnitudePrunerConfig(target_sparsity=share, **all_of_them))

    def after_pruning(share: float, compressed: Callable[..., Any]) -> Callable[[Any], Any]:
        return lambda model: compressed(cto.prune_weights(model, pruned(share)), joint_compression=True)

    def ways() -> Iterator[tuple[str, Callable[[Any], Any]]]:
        yield "int8 per channel", lambda model: cto.linear_quantize_weights(model, integers("int8", "per_channel"))
        if only_int8:
            return
        for bits in (8, 6, 4, 3, 2):
            yield f"{bits}-bit palette", partial(cto.palettize_weights, config=palette(bits))
        yield "int4 per block", lambda model: cto.linear_quantize_weights(model, integers("int4", "per_block"))
        for share in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8):
            yield f"{share:.0%} pruned", partial(cto.prune_weights, config=pruned(share))
        for share, bits in product((0.3, 0.4, 0.5, 0.6, 0.7), (6, 4, 3)):
            yield (
                f"{share:.0%} pruned, {bits}-bit palette",
                after_pruning(share, partial(cto.palettize_weights, config=palette(bits))),
            )
        for share in (0.3, 0.4, 0.5, 0.6, 0.7):
            yield (
                f"{share:.0%} pruned, int8",
                after_pruning(share, partial(cto.linear_quantize_weights, config=integers("int8", "per_channel"))),
            )

    def files() -> Iterator[tuple[str, Path, Path]]:
        for settings, compressed in ways():
            path, runs = folder / "small.mlpackage", folder / "decompressed.mlpackage"
            for old in (path, runs):
                shutil.rmtree(old, ignore_errors=True)
            with quiet(), redirect_stderr(io.StringIO()):
                try:
                    model = compressed(coremltools.models.MLModel(str(dense), skip_model_load=True))
                except Exception as error:  # what it can't do with this network isn't a file
                    print(f"  {settings}: {error}", flush=True)
                    continue
                model.save(str(path))
                cto.decompress_weights(model).save(str(runs))
            shutil.rmtree(path / "Data/com.apple.CoreML/debug", ignore_errors=True)
            yield settings, path, runs

    return smallest(files(), "coreml", start.task, floor)


@cache
def fine_tuned(start: Start, floor: float, rounds: int) -> tuple[nn.Module, str, int] | None:
    """torch-pruning by group magnitude, a tenth of the channels at a time, each followed by fine-tuning at a tenth of
    the learning rate: the smallest network within a point at int8, what it is, and how many trainings it took."""
    import torch_pruning as tp

    spec = start.task.origin
    task = make_task({**spec, "epochs": start.epochs, "lr": spec["lr"] / 10}).given
    assert isinstance(task, ImageClassification)
    network, example = copy.deepcopy(start.network), task.example_inputs()
    kept, best, failures = 1.0, None, 0
    for index in range(rounds):
        pruner = tp.pruner.BasePruner(
            network,
            example[0],
            importance=tp.importance.GroupMagnitudeImportance(),
            pruning_ratio=0.1,
            global_pruning=True,
            ignored_layers=[network.get_submodule("classifier")],
        )
        pruner.step()
        kept *= 0.9
        task.fit(network, start=0.0, on_step=lambda _: None)
        network.eval()
        validation = task.evaluate(as_file(load("onnx", "int8"), network, example), "validation")
        print(f"  round {index + 1}: {kept:.0%} of the channels, validation {validation:.2f}", flush=True)
        if validation >= floor:
            best, failures = (copy.deepcopy(network), f"{kept:.0%} of the channels", index + 1), 0
        elif (failures := failures + 1) == 2:
            break
    return best


def torch_pruning(kind: str, start: Start, folder: Path, *, floor: float, rounds: int) -> Found | None:
    """`fine_tuned`, written by dwindle's own exporter at int8, which is the smallest that it would get."""
    best = fine_tuned(start, floor, rounds)
    if best is None:
        return None
    path = written(kind, best[0], start.task, folder)
    scores = judged(load(kind, INT8.get(kind, "int8")), path, start.task)
    return Found(raw_bytes(path), deflated_bytes(path), *scores, *best[1:])


OTHERS: dict[str, dict[str, Callable[..., Found | None]]] = {
    "onnx": {
        "onnxruntime's static int8": onnxruntime_int8,
        "torch-pruning + fine-tuning + int8": partial(torch_pruning, "onnx"),
    },
    "coreml": {
        "coremltools' int8": partial(coremltools_optimize, only_int8=True),
        "coremltools.optimize": coremltools_optimize,
        "torch-pruning + fine-tuning + int8": partial(torch_pruning, "coreml"),
    },
    "executorch": {
        "ExecuTorch's static int8": executorch_int8,
        "torch-pruning + fine-tuning + int8": partial(torch_pruning, "executorch"),
    },
}
