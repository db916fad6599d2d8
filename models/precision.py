"""Whether training in bfloat16 is faster on this machine: measured once, not guessed from its name."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import torch
from torch import nn

from dwindle.errors import DwindleError
from dwindle.files import user_cache, write_json

OVERRIDE = "DWINDLE_BF16"
GAIN = 1.1
"""How many times as fast as float32 bfloat16 must be: below that, its rounding isn't worth it."""
_answer: ContextVar[bool | None] = ContextVar("bf16_answer", default=None)


@contextmanager
def answering(answer: bool) -> Iterator[None]:
    """Makes `bf16_gains` give one answer for the block: all of a run, resumed or not, trains in one precision."""
    before = _answer.set(answer)
    try:
        yield
    finally:
        _answer.reset(before)


def bf16_gains(device: torch.device) -> bool:
    """Returns whether a training step under bfloat16 autocast is faster than in float32 on `device`.

    A CPU is measured once (a fraction of a second) and the answer kept in the user's cache under its model
    and torch's version; where that can't be written the answer is False, since a new measurement in each
    process could change the arithmetic in the middle of a run. A GPU gains where it has bfloat16 units.
    `DWINDLE_BF16=0` or `1` overrides all of it when a run begins; from then on the run keeps its answer.
    """
    if (answer := _answer.get()) is not None:
        return answer
    if (override := os.environ.get(OVERRIDE)) in ("0", "1"):
        return override == "1"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    try:
        cache = user_cache()
    except DwindleError:  # an answer that can't be kept might be another one when the run is resumed
        return False
    return _remembered(cache / "bf16.json")


def _remembered(cache: Path) -> bool:
    """Returns the answer for this machine from `cache`; measures it and writes it there if there is none yet."""
    machine = f"{cpu_name()}, torch {torch.__version__}"
    try:
        known = dict(json.loads(cache.read_text(encoding="utf-8")))
        if machine in known:
            return bool(known[machine]["gain"] >= GAIN)
    except (OSError, ValueError, TypeError, KeyError):
        known = {}
    gain = measured_gain()
    try:
        write_json(cache, {**known, machine: {"gain": round(gain, 3), "threads": torch.get_num_threads()}})
    except DwindleError:
        return False
    return gain >= GAIN


def measured_gain(repeats: int = 7) -> float:
    """Measures the time of a float32 training step over that of a bfloat16 one: medians of interleaved steps.

    The network is a few 3x3 convolutions of the widths that small networks have, channels last in both.
    """
    with torch.random.fork_rng(devices=[]):
        layers = [nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
        for _ in range(2):
            layers += [nn.Conv2d(32, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU()]
        network = nn.Sequential(*layers).to(memory_format=torch.channels_last)
        images = torch.rand(16, 16, 24, 24).contiguous(memory_format=torch.channels_last)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(repeats + 1):
        for bf16, times in seconds.items():
            begin = time.perf_counter()
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                output = network(images)
            output.float().square().mean().backward()
            times.append(time.perf_counter() - begin)
    plain, reduced = (statistics.median(times[1:]) for times in seconds.values())  # the first one warms up
    return plain / reduced


def cpu_name() -> str:
    """Returns this CPU's model, and which bfloat16 instructions it has."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    units = sorted({flag for flag in ("avx512_bf16", "amx_bf16", "bf16") if re.search(rf"\b{flag}\b", text)})
    return " ".join([name[1] if name else platform.machine(), *units])
