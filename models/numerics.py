"""What the last bits of a run depend on beside its options: threads, bfloat16, device, kernels, versions of packages.

A run that resumes goes on with what it began with where that can be set here, and says what is different.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict

import torch

from dwindle.models import ranks
from dwindle.models.precision import answering, bf16_gains, cpu_name
from dwindle.record import Numerics


def training_device() -> torch.device:
    """The device to train on: this rank's GPU, or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def present() -> Numerics:
    """What a run that begins here and now computes with; under torchrun the first rank answers for all."""
    device, world = training_device(), ranks.world()
    return ranks.broadcast_from_first(
        lambda: Numerics(
            threads=torch.get_num_threads(),
            bf16=bf16_gains(device),
            device=device.type,
            processor=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
            kernels=torch.backends.cpu.get_cpu_capability(),
            ranks=world,
        )
    )


@contextmanager
def continued(begun: Numerics, here: Numerics) -> Iterator[None]:
    """Computes, for the block, with the threads and the bfloat16 answer that a run began with, where they can be set
    here (see `differences`)."""
    threads = torch.get_num_threads()
    if _settable(begun, here)["threads"] and begun.threads != threads:
        torch.set_num_threads(begun.threads)
    try:
        with answering(begun.bf16 if _settable(begun, here)["bf16"] else here.bf16):
            yield
    finally:
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)


def differences(
    begun: Numerics, here: Numerics, versions: Mapping[str, str], versions_here: Mapping[str, str]
) -> str | None:
    """A line for a run that resumes where it is not as it was when it began; None where all is as it was.

    `versions` are those recorded when the run began, of which only those also in `versions_here` are compared.

        >>> print(differences(one_thread, two_threads, {"torch": "2.9.0"}, {"torch": "2.9.1"}))
        the run goes on as it began, with threads 1 (here 2); the result may differ in its last bits from that of an
        uninterrupted run, because it differs in torch (2.9.0 when it began, 2.9.1 here)
    """
    settable = _settable(begun, here)
    was, now = asdict(begun), asdict(here)
    changed = {name: (was[name], now[name]) for name in was if was[name] != now[name]}
    kept = [f"{name} {_word(old)} (here {_word(new)})" for name, (old, new) in changed.items() if settable.get(name)]
    lost = {name: pair for name, pair in changed.items() if not settable.get(name)}
    lost |= {
        name: (versions.get(name, "none"), version)
        for name, version in versions_here.items()
        if versions.get(name) != version
    }
    sentences = []
    if kept:
        sentences.append(f"the run goes on as it began, with {', '.join(kept)}")
    if lost:
        named = ", ".join(f"{name} ({_word(a)} when it began, {_word(b)} here)" for name, (a, b) in lost.items())
        sentences.append(
            "the result may differ in its last bits from that of an uninterrupted run, because it differs in " + named
        )
    return "; ".join(sentences) or None


def _settable(begun: Numerics, here: Numerics) -> dict[str, bool]:
    """Which of the numerics can be set here to what they were. More threads than cores would take many times as long,
    and whether bfloat16 is faster on a CPU says nothing of a GPU."""
    return {"threads": begun.threads <= (os.cpu_count() or 1), "bf16": begun.device == here.device}


def _word(value: object) -> str:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
