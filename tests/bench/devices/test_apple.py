"""What would be asked of Core ML on Apple's devices: nothing of it has been run on any, and it says so."""

from __future__ import annotations

import inspect
import platform
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from dwindle.bench import doctor
from dwindle.bench.devices import apple, apple_worker
from dwindle.bench.devices.registry import reach
from dwindle.checkpoint import Checkpoint
from dwindle.cli import main
from dwindle.errors import RuntimeUnavailable, UsageError

not_a_mac = pytest.mark.needs("no Mac")


def test_a_name_is_a_device() -> None:
    found = reach("apple://Anna's iPhone")
    assert isinstance(found, apple.Apple)
    assert (found.url, found.name, list(found.targets)) == ("apple://Anna's iPhone", "Anna's iPhone", ["coreml"])
    for name in ("apple://", "apple", "apple:mac"):
        with pytest.raises(UsageError) as refused:
            reach(name)
        assert (refused.value.code, refused.value.name) == ("malformed-name", name)


def test_the_worker_is_given_the_device_and_the_file() -> None:
    (runtime,) = apple.Apple("apple://mac").runtimes()
    assert (runtime.name, runtime.target) == ("coreml", "coreml")
    assert runtime.launch(Path("net.mlpackage"), 1).command == [
        *(sys.executable, "-P", "-m", "dwindle.bench.devices.apple_worker", "mac", "net.mlpackage")
    ]


@not_a_mac
def test_elsewhere_than_on_a_mac_it_is_refused_in_words(
    checkpoint: Checkpoint, export: Any, onnx_files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    export("onnx", *onnx_files)
    assert main(["bench", str(checkpoint.path), "--device", "apple://mac"]) == RuntimeUnavailable.exit_code
    assert (
        f"apple://mac: Core ML runs on Apple's systems and is reached from a Mac, and this is {platform.system()}"
        in (capsys.readouterr().err)
    )
    assert not checkpoint.bench_path.exists()
    finding = doctor._device(apple.Apple)
    assert (finding.found, finding.not_yet_run_on) == (None, "Apple hardware")
    assert finding.reason is not None


def test_coremltools_takes_what_it_is_asked() -> None:
    """The calls of the worker, held against the signatures of the coremltools that is installed."""
    from coremltools.models import MLModel
    from coremltools.models.ml_program.experimental.async_wrapper import MLModelAsyncWrapper
    from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker

    def takes(function: Any, *given: Any, **named: Any) -> None:
        inspect.signature(function).bind(*given, **named)

    takes(MLModel.__init__, None, "net.mlpackage", compute_units=None, skip_model_load=True)
    takes(MLModelBenchmarker.__init__, None, None, device=None)
    takes(MLModelBenchmarker.benchmark_load, None, iterations=1)
    takes(MLModelBenchmarker.benchmark_predict, None, inputs={}, iterations=7)
    takes(MLModelBenchmarker.benchmark_operation_execution, None, inputs={}, iterations=7, warmup=True)
    takes(MLModelAsyncWrapper.from_spec_or_path, spec_or_path="", weights_dir="", compute_units=None, device=None)


def test_inputs_are_named_in_their_order() -> None:
    from coremltools.proto import Model_pb2

    spec = Model_pb2.Model()
    for name in ("image", "mask"):
        added = spec.description.input.add()
        added.name = name
        added.type.multiArrayType.shape.extend([1, 2])
    first, second = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
    given = apple_worker.named(spec, [first, second])
    assert list(given) == ["image", "mask"]
    assert given["mask"] is second
    spec.description.input[0].type.imageType.width = 2
    with pytest.raises(ValueError, match="its input image is an image"):
        apple_worker.named(spec, [first, second])


def test_durations_are_nanoseconds_and_operators_have_units() -> None:
    from coremltools.models.compute_device import MLCPUComputeDevice
    from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker
    from coremltools.proto import MIL_pb2

    np.testing.assert_array_equal(apple_worker.nanoseconds([0.25, 1.5]), [250_000, 1_500_000])
    spec = MIL_pb2.Operation(type="conv")
    spec.outputs.add().name = "y"
    measured = MLModelBenchmarker.Measurement.from_samples
    unit = SimpleNamespace(preferred_compute_device=MLCPUComputeDevice.__new__(MLCPUComputeDevice))
    info = MLModelBenchmarker.OperationExecutionInfo(
        spec=spec, path=None, compute_device_usage=unit, measurement=measured([1.0, 3.0, 2.0])
    )
    assert apple_worker.operator(info) == ("y", "conv", 2.0, "MLCPUComputeDevice")
    constant = MLModelBenchmarker.OperationExecutionInfo(spec, None, None, measured([]))
    assert apple_worker.operator(constant) is None
