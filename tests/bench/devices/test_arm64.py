"""ARM64 cost: counted exactly, the same every time, on the real runtimes; refusals say what to do."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import psutil
import pytest
import torch
from torch import nn

from dwindle.bench import build
from dwindle.bench.devices import emulator, sysroot
from dwindle.bench.devices.arm64 import Arm64
from dwindle.bench.process import WorkerFailed
from dwindle.errors import DwindleError, RuntimeUnavailable, UsageError

needs_emulation = pytest.mark.needs("arm64")


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "dwindle"


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """A host that has every package but those named."""

    def lacking(*programs: str) -> None:
        monkeypatch.setattr(shutil, "which", lambda name: None if name in programs else f"/usr/bin/{name}")
        monkeypatch.setattr(sysroot, "_KEYRING", tmp_path)

    return lacking


class TestRefusals:
    def test_the_missing_packages_are_named(self, host: Callable[..., None], empty_cache: Path) -> None:
        for absent, command in (
            (("qemu-aarch64",), "apt-get install qemu-user"),
            (("aarch64-linux-gnu-g++", "gcc"), "apt-get install g++-aarch64-linux-gnu gcc"),
            (("apt-get",), None),
        ):
            host(*absent)
            missing = sysroot.missing()
            assert missing is not None
            assert missing.command == command
            with pytest.raises(RuntimeUnavailable) as refused:
                Arm64.setup(print)
            assert (refused.value.code, refused.value.name) == ("missing", "arm64")
        assert not empty_cache.exists()

    def test_without_setup_the_command_is_named(
        self, host: Callable[..., None], empty_cache: Path, tmp_path: Path
    ) -> None:
        host()
        with pytest.raises(RuntimeUnavailable, match=r"run `dwindle doctor --setup arm64`$"):
            emulator.count(tmp_path / "net.onnx", "onnx", [])

    def test_set_up_for_another_onnxruntime(self, host: Callable[..., None], empty_cache: Path) -> None:
        host()
        made: dict[str, Any] = sysroot._wanted()
        sysroot.root().mkdir(parents=True)
        (sysroot.root() / "setup.json").write_text(json.dumps(made))
        assert sysroot.missing() is None
        made["wheels"]["onnxruntime"] = "1.0.0"
        (sysroot.root() / "setup.json").write_text(json.dumps(made))
        assert "other versions" in str(sysroot.missing())

    def test_targets_and_options_that_cannot_be(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError) as refused:
            emulator.count(tmp_path / "net.mlpackage", "coreml", [])
        assert refused.value.name == "coreml"
        with pytest.raises(UsageError) as refused:
            emulator.count(tmp_path / "net.onnx", "onnx", [], sparse=True)
        assert refused.value.option == "sparse"

    def test_an_interrupted_download_is_kept_and_nothing_else_is_left(
        self, monkeypatch: pytest.MonkeyPatch, host: Callable[..., None], empty_cache: Path
    ) -> None:
        host()

        def fail(command: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
            if "update" in command:
                return subprocess.CompletedProcess(command, 0, "", "")
            (empty_cache / "arm64-downloads/debian/cache/archives/half.deb").touch()
            return subprocess.CompletedProcess(command, 100, "", "W: late\nE: no route to host\nE: some files failed\n")

        monkeypatch.setattr(subprocess, "run", fail)
        with pytest.raises(DwindleError, match=r"\(E: no route to host\)$") as refused:
            sysroot.setup()
        assert (refused.value.code, refused.value.name) == ("setup-failed", "arm64")
        assert [path.name for path in empty_cache.iterdir()] == ["arm64-downloads"]
        assert (empty_cache / "arm64-downloads/debian/cache/archives/half.deb").exists()


@pytest.mark.needs("compiler", "cross-compiler")
def test_counts_are_exact(tmp_path: Path) -> None:
    """A program of which every instruction between two writes is known."""
    (tmp_path / "loop.s").write_text(
        """.global _start
.macro answer
    mov x0, #1
    adr x1, text
    mov x2, #1
    mov x8, #64
    svc #0
.endm
_start:
    answer
    mov x9, #1000
again:
    fmla v0.4s, v1.4s, v2.s[1]
    fmla v3.2s, v1.2s, v2.2s
    sdot v4.4s, v5.16b, v6.16b
    fadd v7.4s, v1.4s, v2.4s
    ldr q1, [sp]
    subs x9, x9, #1
    b.ne again
    answer
    mov x0, #0
    mov x8, #93
    svc #0
text: .ascii "."
"""
    )
    flags = ["-nostdlib", "-static", "-march=armv8.2-a+dotprod"]
    subprocess.run(["aarch64-linux-gnu-gcc", *flags, "loop.s", "-o", "loop"], cwd=tmp_path, check=True)
    plugin = ["-plugin", f"{build.counter()},out={tmp_path}/counts"]
    command = sysroot.emulated([str(tmp_path / "loop")], tmp_path, plugin)
    done = subprocess.run(command, env={"QEMU_CPU": sysroot.CPU, "PATH": "/usr/bin:/bin"}, capture_output=True)
    assert done.stdout == b"..", done.stderr
    before, after = map(json.loads, (tmp_path / "counts").read_text().splitlines())
    assert {kind: after[kind] - before[kind] for kind in after} == {
        "all": 7000 + 6,
        "load_store": 1000,
        "simd": 4000,
        "fmla": 2000,
        "dot": 1000,
        "int": 1000 + 5,
        "branch": 1000 + 1,
        "macs": 1000 * (4 + 2 + 16),
    }


class Aligned(nn.Sequential):
    """Feature maps of 24², 12² and channels in eights: no kernel's tile reaches past an edge."""

    MACS = 576 * 16 * 27 + 144 * 32 * 144 + 144 * 32 * 32 + 32 * 16

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(
            nn.Conv2d(3, 16, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 16),
        )
        self.eval()


class Separable(nn.Sequential):
    """A stem, depthwise and 1×1 convolutions: the shape of network that XNNPACK can run sparse."""

    def __init__(self, density: float) -> None:
        torch.manual_seed(0)
        layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, padding=1), nn.ReLU6()]
        for channels in (32, 128, 128):
            layers += [nn.Conv2d(channels, channels, 3, padding=1, groups=channels), nn.ReLU6()]
            layers += [nn.Conv2d(channels, 128, 1), nn.ReLU6()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 16))
        with torch.no_grad():
            for layer in self:
                if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1)):
                    weight = layer.weight.abs().flatten()
                    layer.weight *= layer.weight.abs() >= weight.kthvalue(round(weight.numel() * (1 - density)) + 1)[0]
        self.eval()


def expected(net: nn.Module, image: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return net(torch.from_numpy(image)).numpy()


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return torch.randn(1, 3, 24, 24, generator=torch.Generator().manual_seed(0)).numpy()


Export = Callable[[nn.Module, str], Path]


@pytest.fixture
def export(tmp_path: Path, image: np.ndarray) -> Export:
    def write(net: nn.Module, name: str) -> Path:
        path, example = tmp_path / name, (torch.from_numpy(image),)
        if path.suffix == ".onnx":
            program = torch.onnx.export(net, example, dynamo=True, external_data=False, verbose=False)
            assert program is not None
            onnx.save(program.model_proto, path)
        else:
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            lowered = to_edge_transform_and_lower(torch.export.export(net, example), partitioner=[XnnpackPartitioner()])
            path.write_bytes(lowered.to_executorch().buffer)
        return path

    return write


KILLED = """
import sys
from pathlib import Path
import numpy as np
from dwindle.bench.devices import emulator
emulator._REQUESTS = (("load", {}), ("time", {"iterations": 10**9}))
emulator.count(Path(sys.argv[1]), "onnx", [np.zeros((1, 1, 8, 8), np.float32)])
"""


@needs_emulation
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_bench_leaves_no_emulator(onnx_files: tuple[Path, Path], how: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, str(onnx_files[1])]) as killed:
        own, deadline = psutil.Process(killed.pid), time.monotonic() + 60
        while not (started := [one for one in own.children() if one.name() == "qemu-aarch64"]):
            assert time.monotonic() < deadline
            assert killed.poll() is None
            time.sleep(0.02)
        killed.send_signal(how)
    _, alive = psutil.wait_procs(started, timeout=10)
    for process in alive:
        process.kill()
    assert alive == []


@pytest.mark.slow
@needs_emulation
class TestEmulated:
    @pytest.mark.parametrize(("target", "suffix"), [("executorch", ".pte"), ("onnx", ".onnx")])
    def test_repeats_agrees_with_the_host_and_counts_every_mac(
        self, target: str, suffix: str, export: Export, image: np.ndarray
    ) -> None:
        net = Aligned()
        path = export(net, f"net{suffix}")
        said: list[str] = []
        first = emulator.count(path, target, [image], progress=said.append)
        elsewhere = path.with_name(f"the_same_under_a_longer_name{suffix}")
        shutil.copy(path, elsewhere)
        second = emulator.count(elsewhere, target, [image])

        assert second.instructions["all"] == pytest.approx(first.instructions["all"], rel=1e-3)
        np.testing.assert_allclose(first.outputs[0], expected(net, image), atol=1e-6)
        assert first.macs == pytest.approx(Aligned.MACS, rel=0.01)
        assert first.macs == pytest.approx(4 * first.instructions["fmla"], rel=0.001)
        counts = first.instructions
        assert set(counts) == set(emulator.CLASSES)
        parts = counts["load_store"] + counts["simd"] + counts["int"] + counts["branch"]
        assert parts == pytest.approx(counts["all"], abs=2)  # each is rounded
        assert first.runtime.startswith(sysroot.TARGETS[target])
        assert first.emulator.startswith("qemu-user ")
        assert said[0] == f"net{suffix} on an emulated cortex-a76: starting"

    def test_half_the_network_costs_less(self, export: Export, image: np.ndarray) -> None:
        """The ratio is what a gate looks at: it must follow the work, not the start."""
        net = Aligned()
        wide = emulator.count(export(net, "wide.pte"), "executorch", [image])
        net[2], net[4] = nn.Conv2d(16, 16, 3, 2, padding=1), nn.Conv2d(16, 32, 1)
        narrow = emulator.count(export(net, "narrow.pte"), "executorch", [image])
        macs = Aligned.MACS - 144 * 16 * 144 - 144 * 16 * 32
        assert narrow.macs == macs
        assert narrow.instructions["all"] / wide.instructions["all"] == pytest.approx(macs / Aligned.MACS, abs=0.1)

    def test_sparse_kernels_skip_zeros(self, export: Export, image: np.ndarray) -> None:
        net = Separable(density=0.1)
        path = export(net, "net.pte")
        dense = emulator.count(path, "executorch", [image])
        sparse = emulator.count(path, "executorch", [image], sparse=True)
        assert sparse.instructions["all"] < 0.6 * dense.instructions["all"]
        assert sparse.macs < 0.4 * dense.macs
        np.testing.assert_allclose(sparse.outputs[0], expected(net, image), atol=1e-5)

    def test_litert(self, tmp_path: Path) -> None:
        random = np.random.default_rng(0)
        x, weight, bias = (random.standard_normal(shape, np.float32) for shape in ((6, 32), (16, 32), (16,)))
        (tmp_path / "net.tflite").write_bytes(fully_connected(x.shape, weight, bias))
        cost = emulator.count(tmp_path / "net.tflite", "litert", [x])
        np.testing.assert_allclose(cost.outputs[0], x @ weight.T + bias, atol=1e-5)
        assert cost.macs == pytest.approx(6 * 32 * 16, rel=0.01)
        assert cost.runtime.startswith("litert 2.")

    def test_a_file_that_is_none_is_refused_with_the_runtimes_words(self, tmp_path: Path, image: np.ndarray) -> None:
        for target, name in (("executorch", "net.pte"), ("onnx", "net.onnx"), ("litert", "net.tflite")):
            (tmp_path / name).write_bytes(b"nothing to load" * 50)
            with pytest.raises(WorkerFailed, match=f"^{name} on an emulated cortex-a76 failed: .+"):
                emulator.count(tmp_path / name, target, [image])

    def test_another_shape_is_refused(self, export: Export, image: np.ndarray) -> None:
        with pytest.raises(WorkerFailed, match="failed"):
            emulator.count(export(Aligned(), "net.pte"), "executorch", [image[:, :, :7]])

    def test_the_time_limit_holds(self, export: Export, image: np.ndarray) -> None:
        with pytest.raises(WorkerFailed, match=r"0\.001 s"):
            emulator.count(export(Aligned(), "net.pte"), "executorch", [image], time_limit=0.001)

    def test_setup_again_does_nothing(self) -> None:
        made = (sysroot.root() / "setup.json").stat().st_mtime_ns
        said: list[str] = []
        assert sysroot.setup(said.append) == sysroot.root()
        assert len(said) == 1
        assert (sysroot.root() / "setup.json").stat().st_mtime_ns == made


def fully_connected(shape: tuple[int, int], weight: np.ndarray, bias: np.ndarray) -> bytes:
    """A TFLite file of one layer, through the schema that LiteRT's wheel brings: no converter needed."""
    import flatbuffers

    schema = litert_schema()

    def tensor(name: str, shape: list[int], buffer: int) -> Any:
        made = schema.TensorT()
        made.name, made.shape, made.buffer, made.type = name, shape, buffer, schema.TensorType.FLOAT32
        return made

    def buffer(array: np.ndarray | None) -> Any:
        made = schema.BufferT()
        made.data = None if array is None else np.frombuffer(array.tobytes(), np.uint8)
        return made

    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    layer = schema.OperatorT()
    layer.inputs, layer.outputs = [0, 1, 2], [3]
    layer.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    layer.builtinOptions = schema.FullyConnectedOptionsT()
    graph = schema.SubGraphT()
    graph.tensors = [
        tensor("x", list(shape), 1),
        tensor("weight", list(weight.shape), 2),
        tensor("bias", list(bias.shape), 3),
        tensor("y", [shape[0], len(bias)], 4),
    ]
    graph.inputs, graph.outputs, graph.operators = [0], [3], [layer]
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [buffer(array) for array in (None, None, weight, bias, None)]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def litert_schema() -> ModuleType:
    path = sysroot.root() / "site" / "ai_edge_litert" / "schema_py_generated.py"
    spec = spec_from_file_location("litert_schema", path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
