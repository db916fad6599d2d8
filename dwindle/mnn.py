"""MNN set up in one way for all that run its files: export, bench, and the emulated ARM64 machine.

The emulated machine reads this file alone: it imports nothing of dwindle.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def loaded(path: str, threads: int) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    """Loads a file, and returns a function from an array per input, a batch of one, to an array per output.

    MNN lists inputs and outputs by their names in alphabetical order. Raises ValueError for a file that it refuses.
    """
    import MNN
    import numpy as np

    interpreter = MNN.Interpreter(path)
    # "high" keeps fp32 arithmetic, which ARM's kernels would otherwise replace by fp16 where they can.
    session = interpreter.createSession({"backend": "CPU", "numThread": threads, "precision": "high"})
    if session is None:
        raise ValueError("MNN cannot load the file")
    inputs = [tensor for _, tensor in sorted(interpreter.getSessionInputAll(session).items())]
    outputs = [tensor for _, tensor in sorted(interpreter.getSessionOutputAll(session).items())]
    layout = MNN.Tensor_DimensionType_Caffe

    def infer(arrays: list[np.ndarray]) -> list[np.ndarray]:
        for tensor, array in zip(inputs, arrays, strict=True):
            kind = tensor.getDataType()
            given = np.ascontiguousarray(array, np.int32 if kind == MNN.Halide_Type_Int else np.float32)
            tensor.copyFrom(MNN.Tensor(tensor.getShape(), kind, given, layout))
        interpreter.runSession(session)
        return [read(tensor) for tensor in outputs]

    def read(tensor: Any) -> np.ndarray:
        shape, kind = tensor.getShape(), tensor.getDataType()
        host = MNN.Tensor(shape, kind, np.zeros(shape, np.int32 if kind == MNN.Halide_Type_Int else np.float32), layout)
        tensor.copyToHostTensor(host)
        return np.array(host.getNumpyData()).reshape(shape)

    return infer
