"""The native programs do what they say: on real files, with encodings the assembler vouches for."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
import pytest
import torch

from dwindle.bench import build, wire
from dwindle.errors import RuntimeUnavailable

needs_compiler = pytest.mark.needs("compiler")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cache of its own, which starts empty."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture
def pte(pte_files: tuple[Path, Path]) -> Path:
    return pte_files[0]


def without_delegate(net: torch.nn.Module, path: Path) -> Path:
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(net, (torch.randn(1, 1, 8, 8),))
    path.write_bytes(to_edge_transform_and_lower(program).to_executorch().buffer)
    return path


class Runner:
    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [build.runner(), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )

    def ask(
        self, request: str, arrays: list[np.ndarray] | None = None, **fields: Any
    ) -> tuple[dict[str, Any], list[np.ndarray]]:
        stdin, stdout = self._pipes()
        wire.send(stdin, {"request": request, **fields}, arrays or [])
        return wire.receive(stdout)

    def end(self) -> int:
        for pipe in self._pipes():
            pipe.close()
        return self.process.wait(timeout=10)

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        return self.process.stdin, self.process.stdout


@pytest.fixture
def sample() -> np.ndarray:
    return torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(1)).numpy()


@needs_compiler
class TestRunner:
    @pytest.mark.slow
    def test_answers_as_a_worker_does(
        self, pte: Path, sample: np.ndarray, nets: tuple[torch.nn.Module, torch.nn.Module]
    ) -> None:
        runner = Runner(str(pte), "1")
        loaded, _ = runner.ask("load", [sample])
        assert set(loaded) == {"version", "load_ms", "first_ms", "memory_bytes"}
        assert loaded["load_ms"] > 0
        assert loaded["first_ms"] > 0
        assert 10_000 < loaded["memory_bytes"] < 100e6

        timed, (wall, cpu) = runner.ask("time", iterations=7)
        assert timed["switches"] >= 0
        assert wall.dtype == cpu.dtype == np.int64
        assert wall.shape == cpu.shape == (7,)
        assert (wall > 0).all()
        assert (cpu > 0).all()

        _, (output,) = runner.ask("infer", [sample])
        expected = nets[0](torch.from_numpy(sample)).detach().numpy()
        np.testing.assert_allclose(output, expected, atol=1e-5)
        _, (other,) = runner.ask("infer", [sample + 1])  # not the sample that was loaded
        assert abs(other - output).max() > 1e-3
        assert runner.end() == 0

    @pytest.mark.slow
    def test_profile_names_the_delegates_operators(self, pte: Path, sample: np.ndarray, tmp_path: Path) -> None:
        from executorch.devtools import Inspector

        runner = Runner(str(pte), "1")
        runner.ask("load", [sample])
        header, (etdump,) = runner.ask("profile", iterations=3)
        runner.end()
        assert header["threads"] == 1
        assert header["planned_bytes"] >= 64 * 4
        (tmp_path / "net.etdp").write_bytes(etdump.tobytes())
        events = Inspector(etdump_path=str(tmp_path / "net.etdp")).to_dataframe()
        delegated = events[events["is_delegated_op"]]
        assert any("Convolution" in name for name in delegated["event_name"])
        assert all(len(raw) == 3 for raw in delegated["raw"])

    def test_refusals_leave_it_answering(self, pte: Path, sample: np.ndarray) -> None:
        runner = Runner(str(pte), "1")
        assert runner.ask("time", iterations=1)[0] == {"error": "nothing is loaded yet"}
        runner.ask("load", [sample])
        assert "NotSupported" in runner.ask("infer", [sample[:, :, :4]])[0]["error"]
        assert "InvalidArgument" in runner.ask("infer", [sample.astype(np.int64)])[0]["error"]
        assert "dtype <c8" in runner.ask("infer", [sample.astype(np.complex64)])[0]["error"]
        assert runner.ask("infer", [])[0] == {"error": "the file takes 1 inputs, not 0"}
        assert runner.ask("infer", [sample, sample])[0] == {"error": "the file takes 1 inputs, not 2"}
        assert runner.ask("dance", iterations=1)[0] == {"error": "no such request: dance"}
        assert runner.ask("infer", [sample])[1][0].shape == (1, 10)
        assert runner.end() == 0

    def test_a_file_that_is_none(self, tmp_path: Path, sample: np.ndarray) -> None:
        (tmp_path / "net.pte").write_bytes(b"not a program" * 99)
        runner = Runner(str(tmp_path / "net.pte"), "1")
        assert "cannot load the file" in runner.ask("load", [sample])[0]["error"]
        assert runner.end() == 0

    def test_sparse_reaches_the_delegate_and_says_where_there_is_none(
        self, pte: Path, sample: np.ndarray, nets: tuple[torch.nn.Module, torch.nn.Module], tmp_path: Path
    ) -> None:
        runner = Runner(str(pte), "1", "--sparse")
        assert "error" not in runner.ask("load", [sample])[0]
        (output,) = runner.ask("infer", [sample])[1]
        runner.end()
        np.testing.assert_allclose(output, nets[0](torch.from_numpy(sample)).detach().numpy(), atol=1e-5)

        portable = without_delegate(nets[0], tmp_path / "portable.pte")
        runner = Runner(str(portable), "1", "--sparse")
        assert "nothing here is XNNPACK's" in runner.ask("load", [sample])[0]["error"]
        runner.end()

    def test_compiled_once(self, cache: Path) -> None:
        program = build.runner()
        assert program.is_relative_to(cache)
        before = program.stat().st_mtime_ns
        assert build.runner() == program
        assert program.stat().st_mtime_ns == before


def test_no_compiler_is_one_sentence_with_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(RuntimeUnavailable, match=r"g\+\+ is not installed.*apt-get install g\+\+`$"):
        build.runner()


@needs_compiler
def test_what_does_not_compile_is_one_sentence_and_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libexecutorch.so").touch()  # headers and all the rest are missing
    before = set(cache.rglob("*"))
    with pytest.raises(RuntimeUnavailable, match=r"^g\+\+ does not compile the native runner: .*error.*$"):
        build.runner(package=tmp_path)
    assert not {path for path in set(cache.rglob("*")) - before if path.is_file()}


INSTRUCTIONS = [
    (0x4E22CC20, "fmla v0.4s, v1.4s, v2.4s", "simd fmla", 4),
    (0x0E22CC20, "fmla v0.2s, v1.2s, v2.2s", "simd fmla", 2),
    (0x4E62CC20, "fmla v0.2d, v1.2d, v2.2d", "simd fmla", 2),
    (0x4EA2CC23, "fmls v3.4s, v1.4s, v2.4s", "simd fmla", 4),
    (0x4E420C20, "fmla v0.8h, v1.8h, v2.8h", "simd fmla", 8),
    (0x0EC20C20, "fmls v0.4h, v1.4h, v2.4h", "simd fmla", 4),
    (0x4FBF1A14, "fmla v20.4s, v16.4s, v31.s[3]", "simd fmla", 4),
    (0x0F9F1214, "fmla v20.2s, v16.2s, v31.s[0]", "simd fmla", 2),
    (0x4FDF5A14, "fmls v20.2d, v16.2d, v31.d[1]", "simd fmla", 2),
    (0x4F3F1A14, "fmla v20.8h, v16.8h, v15.h[7]", "simd fmla", 8),
    (0x0F0F1214, "fmla v20.4h, v16.4h, v15.h[0]", "simd fmla", 4),
    (0x5FA21020, "fmla s0, s1, v2.s[1]", "simd fmla", 1),
    (0x5F121020, "fmla h0, h1, v2.h[1]", "simd fmla", 1),
    (0x1F020C20, "fmadd s0, s1, s2, s3", "simd fmla", 1),
    (0x1F628C20, "fnmsub d0, d1, d2, d3", "simd fmla", 1),
    (0x4E829420, "sdot v0.4s, v1.16b, v2.16b", "simd dot", 16),
    (0x2E829420, "udot v0.2s, v1.8b, v2.8b", "simd dot", 8),
    (0x4FA2E820, "sdot v0.4s, v1.16b, v2.4b[3]", "simd dot", 16),
    (0x2F82E020, "udot v0.2s, v1.8b, v2.4b[0]", "simd dot", 8),
    (0x4E829C20, "usdot v0.4s, v1.16b, v2.16b", "simd dot", 16),
    (0x4FA2F020, "usdot v0.4s, v1.16b, v2.4b[1]", "simd dot", 16),
    (0x4F22F020, "sudot v0.4s, v1.16b, v2.4b[1]", "simd dot", 16),
    # Neighbours in the encoding that multiply without adding, or add integers or complex numbers.
    (0x6E22DC20, "fmul v0.4s, v1.4s, v2.4s", "simd", 0),
    (0x4FA29020, "fmul v0.4s, v1.4s, v2.s[1]", "simd", 0),
    (0x6FA29020, "fmulx v0.4s, v1.4s, v2.s[1]", "simd", 0),
    (0x4E22D420, "fadd v0.4s, v1.4s, v2.4s", "simd", 0),
    (0x4E22F420, "fmax v0.4s, v1.4s, v2.4s", "simd", 0),
    (0x4E22FC20, "frecps v0.4s, v1.4s, v2.4s", "simd", 0),
    (0x4EA29420, "mla v0.4s, v1.4s, v2.4s", "simd", 0),
    (0x6FA20020, "mla v0.4s, v1.4s, v2.s[1]", "simd", 0),
    (0x0F722020, "smlal v0.4s, v1.4h, v2.h[3]", "simd", 0),
    (0x6E828420, "sqrdmlah v0.4s, v1.4s, v2.4s", "simd", 0),
    (0x4FB20020, "fmlal v0.4s, v1.4h, v2.h[3]", "simd", 0),
    (0x6F823020, "fcmla v0.4s, v1.4s, v2.s[0], #90", "simd", 0),
    (0x4F000400, "movi v0.4s, #0", "simd", 0),
    (0x4F3D0420, "sshr v0.4s, v1.4s, #3", "simd", 0),
    (0x1E222820, "fadd s0, s1, s2", "simd", 0),
    (0x4C407800, "ld1 {v0.4s}, [x0]", "load_store", 0),
    (0x3DC00400, "ldr q0, [x0, #16]", "load_store", 0),
    (0xACC10400, "ldp q0, q1, [x0], #32", "load_store", 0),
    (0xA9BF7BFD, "stp x29, x30, [sp, #-16]!", "load_store", 0),
    (0xC85FFC20, "ldaxr x0, [x1]", "load_store", 0),
    (0x58000000, "ldr x0, .", "load_store", 0),
    (0x8B020020, "add x0, x1, x2", "int", 0),
    (0xD28000A0, "mov x0, #5", "int", 0),
    (0x9B020C20, "madd x0, x1, x2, x3", "int", 0),
    (0x9A820020, "csel x0, x1, x2, eq", "int", 0),
    (0x54000000, "b.eq .", "branch", 0),
    (0x94000000, "bl .", "branch", 0),
    (0xD65F03C0, "ret", "branch", 0),
    (0x37180000, "tbnz x0, #3, .", "branch", 0),
    (0xD4000001, "svc #0", "branch", 0),
]


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The plugin's own decoder, compiled for this machine."""
    folder = tmp_path_factory.mktemp("decoder")
    source = folder / "decoder.c"
    source.write_text(
        '#include "aarch64.h"\n'
        "const char *name_of(int kind) { return kind_names[kind]; }\n"
        "void decode(uint32_t word, uint64_t counts[KINDS]) { count_instruction(word, counts); }\n"
    )
    library = folder / "decoder.so"
    warnings = ["-Wall", "-Wextra", "-Werror"]
    command = ["gcc", "-shared", "-fPIC", *warnings, f"-I{build.NATIVE}", str(source), "-o", str(library)]
    subprocess.run(command, check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.name_of.restype = ctypes.c_char_p
    return loaded


@needs_compiler
@pytest.mark.parametrize(
    ("word", "kinds", "macs"), [pytest.param(word, kinds, macs, id=text) for word, text, kinds, macs in INSTRUCTIONS]
)
def test_decoder(decoder: ctypes.CDLL, word: int, kinds: str, macs: int) -> None:
    counts = (ctypes.c_uint64 * 8)()
    decoder.decode(word, counts)
    found = {decoder.name_of(kind).decode(): count for kind, count in enumerate(counts) if count}
    expected = {"all": 1, **dict.fromkeys(kinds.split(), 1)}
    assert found == (expected | {"macs": macs} if macs else expected)


@pytest.mark.needs("cross-compiler")
def test_the_words_are_the_instructions(tmp_path: Path) -> None:
    (tmp_path / "all.s").write_text("".join(f"{text}\n" for _, text, _, _ in INSTRUCTIONS))
    march = "-march=armv8.6-a+fp16+fp16fml"
    subprocess.run(["aarch64-linux-gnu-as", march, "all.s", "-o", "all.o"], cwd=tmp_path, check=True)
    copy = ["aarch64-linux-gnu-objcopy", "-O", "binary", "-j", ".text", "all.o", "all.bin"]
    subprocess.run(copy, cwd=tmp_path, check=True)
    words = np.fromfile(tmp_path / "all.bin", "<u4").tolist()
    assert words == [word for word, _, _, _ in INSTRUCTIONS]
