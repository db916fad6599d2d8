"""What every test shares: one thread, hypothesis's settings, and `needs`, which says what a test can't run without.

`@pytest.mark.needs("adb", "compiler")` skips a test, with the reason in words, where one of NEEDS is missing; a test or
file that skips without such a mark fails. Under `--no-skips`, as in CI, nothing may be missing that can be installed:
pytest stops before the first test and names the commands, and a test that skips all the same fails, unless it needs a
machine that nobody can install.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import hypothesis
import pytest

# Read as PyTorch is imported, which isn't here: xdist's first process reads this file too, and runs no test.
os.environ["OMP_NUM_THREADS"] = "1"

# A busy machine is no failure, so there is no deadline. In CI the examples are the same in every run, so that a change
# never fails by an example that another change should have met; everywhere else each run looks for new ones.
hypothesis.settings.register_profile("dwindle", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("dwindle")


@dataclass(frozen=True)
class Need:
    """Something that tests need and that `make test`'s own environment doesn't have."""

    reason: str
    """Why a test is skipped without it, in words."""
    found: Callable[[], bool]
    debian: tuple[str, ...] = ()
    """The Debian packages that it takes."""
    make: bool = False
    """Whether `make everything` adds it, once the packages are there."""

    @property
    def installable(self) -> bool:
        """False for a kind of machine, such as one with a GPU: a test that needs one may skip under --no-skips too."""
        return bool(self.debian or self.make)


def _programs(*names: str) -> Callable[[], bool]:
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"  # where sshd is, and a user's path often isn't
    return lambda: all(shutil.which(name, path=path) for name in names)


def _modules(*names: str) -> Callable[[], bool]:
    return lambda: all(map(find_spec, names))


def _consumer(name: str) -> Callable[[], bool]:
    """Whether `make .consumers/NAME` has made the folder of another reader of ONNX files."""
    folder = Path(__file__).parents[1] / ".consumers" / name
    return folder.is_dir


def _arm64() -> bool:
    from dwindle.bench.devices import sysroot

    return sysroot.missing() is None


def _browser() -> bool:
    from dwindle.bench.devices import web

    return web.missing() is None


def _chromium() -> bool:
    from dwindle.bench.devices import web

    return web.chromium() is not None


def _fashion_mnist() -> bool:
    from dwindle.models import datasets

    return datasets.DEBIAN.is_dir()


def _gpu() -> bool:
    from dwindle.bench.devices.cuda import Cuda

    return Cuda.check() is None


_ARM64 = ("qemu-user", "g++-aarch64-linux-gnu")
_NPM = () if shutil.which("npm") else ("npm",)  # Debian's conflicts with the one that Node's own packages bring
NEEDS = {
    "compiler": Need("gcc and g++ are not installed", _programs("gcc", "g++"), ("gcc", "g++")),
    "git": Need("git is not installed", _programs("git", "bash"), ("git", "bash")),
    "cross-compiler": Need(
        "the AArch64 compiler or qemu-user is not installed",
        _programs("aarch64-linux-gnu-gcc", "aarch64-linux-gnu-as", "qemu-aarch64"),
        _ARM64,
    ),
    "arm64": Need(
        "the ARM64 emulation is not set up: dwindle doctor --setup arm64",
        _arm64,
        (*_ARM64, "gcc", "debian-archive-keyring"),
        make=True,
    ),
    "setpriv": Need("setpriv is not installed", _programs("setpriv"), ("util-linux",)),
    "ssh": Need(
        "sshd, ssh or ssh-keygen is not installed",
        _programs("sshd", "ssh", "ssh-keygen"),
        ("openssh-server", "openssh-client"),
    ),
    "openssl": Need("openssl is not installed", _programs("openssl"), ("openssl",)),
    "adb": Need("adb is not installed", _programs("adb"), ("adb",)),
    "chromium": Need("Chromium is not installed", _chromium, ("chromium",)),
    "playwright": Need("dwindle[browser] is not installed", _modules("playwright"), make=True),
    "browser": Need(
        "files can't be run in a browser here: dwindle doctor --setup browser", _browser, ("chromium", *_NPM), make=True
    ),
    "onnxruntime 1.15": Need(
        "onnxruntime 1.15 is not installed: make .consumers/onnxruntime-1.15", _consumer("onnxruntime-1.15"), make=True
    ),
    "onnxruntime 1.17": Need(
        "onnxruntime 1.17 is not installed: make .consumers/onnxruntime-1.17", _consumer("onnxruntime-1.17"), make=True
    ),
    "onnxruntime 1.20": Need(
        "onnxruntime 1.20 is not installed: make .consumers/onnxruntime-1.20", _consumer("onnxruntime-1.20"), make=True
    ),
    "onnxruntime-web 1.17": Need(
        "onnxruntime-web 1.17 is not installed: make .consumers/onnxruntime-web-1.17",
        _consumer("onnxruntime-web-1.17"),
        _NPM,
        make=True,
    ),
    "node": Need("Node.js is not installed", _programs("node"), _NPM),
    "OpenCV": Need("OpenCV is not installed: make .consumers/opencv", _consumer("opencv"), make=True),
    "litert": Need("dwindle[litert] is not installed", _modules("litert_torch", "ai_edge_litert"), make=True),
    "attest": Need("dwindle[attest] is not installed", _modules("cyclonedx", "securesystemslib"), make=True),
    "mnn": Need("dwindle[mnn] is not installed", _modules("MNN", "_tools"), make=True),
    "tensorboard": Need("dwindle[tensorboard] is not installed", _modules("tensorboard"), make=True),
    "mlflow": Need("dwindle[mlflow] is not installed", _modules("mlflow"), make=True),
    "trackio": Need("dwindle[trackio] is not installed", _modules("trackio"), make=True),
    "timm": Need("dwindle[timm] is not installed", _modules("timm"), make=True),
    "datasets": Need("dwindle[datasets] is not installed", _modules("datasets"), make=True),
    "transformers": Need("dwindle[hf] is not installed", _modules("transformers"), make=True),
    "lightning": Need("dwindle[lightning] is not installed", _modules("lightning"), make=True),
    "ray": Need("dwindle[ray] is not installed", _modules("ray"), make=True),
    # It is under AGPL-3.0 and brings its own OpenCV, so that nothing here installs it.
    "ultralytics": Need(
        "ultralytics is not installed: pip install --no-deps ultralytics ultralytics-thop opencv-python-headless",
        _modules("ultralytics", "cv2"),
    ),
    "accelerate": Need("dwindle[hf] is not installed", _modules("transformers", "accelerate"), make=True),
    "docs": Need("dwindle[docs] is not installed", _modules("mkdocs", "material", "mkdocstrings"), make=True),
    "fashion-mnist": Need("Debian's Fashion-MNIST is not installed", _fashion_mnist, ("dataset-fashion-mnist",)),
    # Kinds of machines, which nothing installs.
    "Linux": Need("this is not Linux", lambda: sys.platform == "linux"),
    "no Mac": Need("this is a Mac", lambda: sys.platform != "darwin"),
    "GPU": Need("there is no NVIDIA GPU here", _gpu),
    "no GPU": Need("there is an NVIDIA GPU here", lambda: not _gpu()),
    "idle machine": Need("this machine is busy", lambda: True),  # the test looks for itself, and skips
}


@cache
def _found(need: Need) -> bool:
    return need.found()


def _needs(item: pytest.Item) -> list[Need]:
    return [NEEDS[name] for marker in item.iter_markers("needs") for name in marker.args]


def _commands() -> str:
    """What installs all that is missing, as one line for a shell; empty where nothing is."""
    missing = [need for need in NEEDS.values() if need.installable and not _found(need)]
    packages = sorted({package for need in missing for package in need.debian})
    apt = [f"apt-get install {' '.join(packages)}"] if packages else []
    make = ["make everything"] if any(need.make for need in missing) else []
    return " && ".join(apt + make)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--no-skips",
        action="store_true",
        help="stop where something is missing that tests need and that can be installed, and fail a test that skips",
    )


def pytest_sessionstart(session: pytest.Session) -> None:
    is_worker = hasattr(session.config, "workerinput")  # of xdist's: its first process has looked
    if session.config.getoption("--no-skips") and not is_worker and (commands := _commands()):
        pytest.exit(f"--no-skips, and not all that tests need is installed. This adds it: {commands}", returncode=4)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for need in _needs(item):
        if not _found(need):
            pytest.skip(need.reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    skipped = call.excinfo is not None and call.excinfo.errisinstance(pytest.skip.Exception)
    needs, none_may = _needs(item), item.config.getoption("--no-skips")
    if skipped and (not needs or (none_may and all(need.installable for need in needs))):
        why = "skipped under --no-skips" if needs else "skipped without saying by a mark what it needs"
        report.outcome, report.longrepr = "failed", f"{why}: {call.excinfo.value}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """A whole file says that it can't run through a mark too."""
    report = yield
    if report.skipped:
        report.outcome = "failed"
        report.longrepr = f"skipped without saying by a mark what it needs: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)  # to come after everything else
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> Generator[None]:
    yield
    if terminalreporter.stats.get("skipped") and (commands := _commands()):
        terminalreporter.write_line(f"To run what was skipped: {commands}")


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Nothing waits for the disk: the suite writes thousands of checkpoints, and cuts no power."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session", autouse=True)
def unrehearsed() -> Iterator[pytest.MonkeyPatch | None]:
    """Compressions begin without a rehearsal of their export; the fixture `rehearsed` brings it back.

    A rehearsal starts processes and takes as long as the suite's small networks take to train, a few hundred times. It
    proves nothing here that tests/export doesn't. Without PyTorch, which test files import, nothing is compressed.
    """
    with pytest.MonkeyPatch.context() as patch:
        if "torch" in sys.modules:
            patch.setattr("dwindle.compress.compression._rehearsed", lambda ready, watcher: None)
            patch.setattr("dwindle.compress.forecast._rehearsed", lambda ready: ())
        yield patch


@pytest.fixture(scope="session", autouse=True)
def exported_here() -> Iterator[None]:
    """An export to one target runs in the tests' own process: another one imports PyTorch first, which takes seconds.

    Exports to several targets start their processes, and tests/export has tests of them.
    """
    with pytest.MonkeyPatch.context() as patch:
        if "torch" in sys.modules:
            from dwindle.checkpoint import Checkpoint
            from dwindle.export import exporter, side_by_side

            def run(path: Path, options: Mapping[str, Any], progress: Callable[[str], None], **given: Any) -> object:
                if len(options) > 1:
                    return side_by_side.run(path, options, progress, **given)
                return exporter._one_by_one(Checkpoint.load(path), options, progress, given["trust"])

            patch.setattr(exporter, "side_by_side", SimpleNamespace(run=run))
        yield


@pytest.fixture
def short_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes a measurement quick and useless: for tests that look at everything but the times."""
    monkeypatch.setattr("dwindle.bench.measure.SLICE_SECONDS", 0.0005)
    monkeypatch.setattr("dwindle.bench.measure.LEAD_SECONDS", 0.0005)
    monkeypatch.setattr("dwindle.bench.measure.WARM_UP_SECONDS", 0.01)
    monkeypatch.setattr("dwindle.bench.measure.PROCESSES", 1)  # to start one is most of the work
    monkeypatch.setattr("dwindle.bench.measure.LOADS", 2)
