"""Runs ONNX files in whatever reads them here: `python consumer.py onnxruntime|opencv|reference FOLDER`.

An environment of its own has one old release and NumPy, and nothing of dwindle. For each NAME.onnx of the folder and
its NAME.npy, the input, NAME.out.npy is written; why it was refused is NAME.error.
"""

import sys
from pathlib import Path

import numpy as np


def outputs(consumer: str, path: Path, x: np.ndarray) -> np.ndarray:
    if consumer == "opencv":
        import cv2

        network = cv2.dnn.readNetFromONNX(str(path))
        network.setInput(x)
        return network.forward()
    if consumer == "reference":
        import onnx
        from onnx.reference import ReferenceEvaluator

        model = onnx.load(path)
        return ReferenceEvaluator(model).run(None, {model.graph.input[0].name: x})[0]
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: x})[0]


for path in sorted(Path(sys.argv[2]).glob("*.onnx")):
    try:
        np.save(path.with_suffix(".out.npy"), outputs(sys.argv[1], path, np.load(path.with_suffix(".npy"))))
    except Exception as error:
        path.with_suffix(".error").write_text(f"{type(error).__name__}: {error}")
