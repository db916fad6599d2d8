"""LiteRT set up in one way for all that run its files: export, bench, and the emulated ARM64 machine.

The emulated machine reads this file alone: it imports nothing of dwindle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def loaded(path: str, threads: int) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """Loads a file, and returns a function from an array per input, a batch of one, to an array per output."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=threads)
    interpreter.allocate_tensors()
    inputs = [detail["index"] for detail in interpreter.get_input_details()]
    types = [detail["dtype"] for detail in interpreter.get_input_details()]
    outputs = [detail["index"] for detail in interpreter.get_output_details()]

    def infer(arrays: list[np.ndarray]) -> list[np.ndarray]:
        for index, dtype, array in zip(inputs, types, arrays, strict=True):
            interpreter.set_tensor(index, array.astype(dtype, copy=False))  # the format has int32 for int64
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in outputs]

    return infer
