"""Layers priced in ARM64 instructions, each counted once by the target's own kernels under emulation, and kept."""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.bench.devices import emulator, sysroot
from dwindle.bench.prices.one_layer import written
from dwindle.errors import UsageError
from dwindle.files import user_cache, write_json
from dwindle.price import Price, Shape
from dwindle.quantities import format_left

if TYPE_CHECKING:
    import numpy as np

TOGETHER = 12
"""Layers that one process counts. After each process, what was counted is kept."""
_LAYOUT = 1
"""To be raised when what is counted of a layer changes, so that older counts are not used."""
_NOTHING = Shape(8, 8, (), ())
"""A layer so small that its count is that of having a file run at all."""


class Counted(Price):
    """ARM64 instructions of one inference on an emulated Cortex-A76."""

    unit = "ARM64 instructions"
    option = "cost"

    def __init__(self, target: str, precision: str, source: str | None = None) -> None:
        """Raises UsageError for a target that no emulated runtime runs."""
        if target not in sysroot.TARGETS:
            raise UsageError(
                f"`cost` counts what the target's own kernels execute on ARM64, and there are none of {target}: give "
                f"{', '.join(sysroot.TARGETS)} as `target`, or `macs` instead",
                code="conflict",
                option="cost",
                name=target,
            )
        self.target, self.precision = target, precision

    def require(self, progress: Callable[[str], None]) -> None:
        emulator.require_emulation()

    def layers(self, shapes: Sequence[Shape], progress: Callable[[str], None]) -> list[float]:
        known = self._known()
        missing = [shape for shape in dict.fromkeys((_NOTHING, *shapes)) if _key(shape) not in known]
        began = time.monotonic()
        for start in range(0, len(missing), TOGETHER):
            some = missing[start : start + TOGETHER]
            left = format_left(time.monotonic() - began, start, len(missing))
            progress(f"counting {self.unit} of layers at several widths: {start} of {len(missing)}{left}")
            with tempfile.TemporaryDirectory() as folder:
                files = written(some, self.target, self.precision, Path(folder))
                counts = emulator.count_each(files, self.target, time_limit=60.0 * len(some))
            known |= {_key(shape): count["all"] for shape, count in zip(some, counts, strict=True)}
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            write_json(self._cache, known)
        return [float(known[_key(shape)] - known[_key(_NOTHING)]) for shape in shapes]

    def whole(self, file: Callable[[], tuple[Path, list[np.ndarray]]], layers: Sequence[Shape]) -> float:
        path, sample = file()
        return float(emulator.count(path, self.target, sample).instructions["all"])

    def words(self, amount: float) -> str:
        return f"{amount / 1e6:,.2f}M {self.unit}"

    @property
    def _cache(self) -> Path:
        kind = sysroot.TARGETS[self.target]
        versions = [version(name) for name in ("torch", {"litert": "ai-edge-litert", "mnn": "MNN"}.get(kind, kind))]
        made = hashlib.sha256(json.dumps([_LAYOUT, *versions, sysroot.CPU]).encode()).hexdigest()[:12]
        return user_cache() / "prices" / f"{self.target}-{self.precision}-{made}.json"

    def _known(self) -> dict[str, int]:
        """What was counted before; nothing where that can't be read, as it can be counted again."""
        try:
            found = json.loads(self._cache.read_text(encoding="utf-8"))
            return {key: count for key, count in found.items() if isinstance(key, str) and isinstance(count, int)}
        except (OSError, ValueError, AttributeError, RecursionError):
            return {}


def _key(shape: Shape) -> str:
    sizes = (shape.size, shape.kernel, shape.stride, shape.padding, shape.dilation)
    told = ("x".join(map(str, one)) or "-" for one in sizes)
    return " ".join([f"{shape.inputs}>{shape.outputs}/{shape.groups}", *told])
