"""The worker process of a Core ML file on an Apple device: `python -m dwindle.bench.devices.apple_worker DEVICE FILE`.

Serves what `worker` serves, by coremltools' benchmarker: its `time` answers with the durations that the device itself
takes, its `profile` with how Core ML's compute plan divides them among operations, and on which unit each runs. It has
not been run on Apple hardware.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import numpy as np

from dwindle.bench.devices.apple import MAC, connected
from dwindle.bench.worker import Answer, serve

ACCELERATOR = "unit that Core ML chose"


class Session:
    """The benchmarker on a file, and the sample that it is timed on."""

    def __init__(self, device: str, file: Path) -> None:
        import coremltools
        from coremltools.models.ml_program.experimental.perf_utils import MLModelBenchmarker

        self._version = coremltools.__version__
        self._device = None if device == MAC else connected(device)
        self._model = coremltools.models.MLModel(
            str(file), compute_units=coremltools.ComputeUnit.ALL, skip_model_load=True
        )
        self._benchmarker = MLModelBenchmarker(self._model, device=self._device)
        self._sample: dict[str, np.ndarray] = {}
        self._runner: Any = None

    def answer(self, header: dict[str, Any], arrays: list[np.ndarray]) -> Answer:
        return asyncio.get_event_loop().run_until_complete(self._answer(header, arrays))

    async def _answer(self, header: dict[str, Any], arrays: list[np.ndarray]) -> Answer:
        match header["request"]:
            case "load":
                return await self._load(arrays)
            case "time":
                timed = await self._benchmarker.benchmark_predict(inputs=self._sample, iterations=header["iterations"])
                return {"switches": 0}, [nanoseconds(timed.samples)]
            case "infer":
                return {}, await self._infer(arrays)
            case "profile":
                operations = await self._benchmarker.benchmark_operation_execution(
                    inputs=self._sample, iterations=header["iterations"], warmup=True
                )
                return {"operators": [found for one in operations if (found := operator(one))]}, []
        raise ValueError(f"no such request: {header['request']}")

    async def _load(self, sample: list[np.ndarray]) -> Answer:
        self._sample = named(self._model.get_spec(), sample)
        loaded = await self._benchmarker.benchmark_load(iterations=1)
        first = await self._benchmarker.benchmark_predict(inputs=self._sample, iterations=1)
        times = {"load_ms": loaded.samples[0], "first_ms": first.samples[0]}
        return {**times, "version": self._version, "memory_bytes": None, "accelerator": ACCELERATOR}, []

    async def _infer(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        from coremltools.models.ml_program.experimental.async_wrapper import MLModelAsyncWrapper

        if self._runner is None:
            self._runner = MLModelAsyncWrapper.from_spec_or_path(
                spec_or_path=self._model.get_spec(),
                weights_dir=self._model.weights_dir,
                compute_units=self._model.compute_unit,
                device=self._device,
            )
            await self._runner.load()
        found = await self._runner.predict(named(self._model.get_spec(), arrays))
        return [np.asarray(found[value.name]) for value in self._model.get_spec().description.output]


def named(spec: Any, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
    """The arrays under the names of a file's inputs, in their order; raises ValueError for a file that takes images."""
    images = [value.name for value in spec.description.input if value.type.HasField("imageType")]
    if images:
        raise ValueError(f"its input {images[0]} is an image: export it with arrays as inputs to measure it there")
    return {value.name: array for value, array in zip(spec.description.input, arrays, strict=True)}


def nanoseconds(milliseconds: list[float]) -> np.ndarray:
    return np.rint(np.array(milliseconds) * 1e6).astype(np.int64)


def operator(info: Any) -> tuple[str, str, float, str] | None:
    """An OperationExecutionInfo as `worker` reports an operator; None for what costs nothing, such as a constant."""
    if info.measurement.statistics is None:
        return None
    usage = info.compute_device_usage
    where = type(usage.preferred_compute_device).__name__ if usage else "?"
    names = [value.name for value in info.spec.outputs]
    return names[0] if names else info.spec.type, info.spec.type, info.measurement.statistics.median, where


def main() -> None:
    device, file = sys.argv[1:]
    asyncio.set_event_loop(asyncio.new_event_loop())
    serve(lambda: Session(device, Path(file)).answer)


if __name__ == "__main__":
    main()
