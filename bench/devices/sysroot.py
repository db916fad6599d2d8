"""A folder that stands in for an ARM64 machine: Debian's arm64 packages, PyPI's aarch64 wheels, one fake CPU.

qemu-user runs ARM64 programs as ordinary processes and looks for what they open below this folder first, so
that nothing is installed, nobody changes root, and the host's dpkg never hears of another architecture.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from dwindle.bench.missing import Missing
from dwindle.bench.run import Progress
from dwindle.errors import DwindleError
from dwindle.files import staged, user_cache

SETUP = "dwindle doctor --setup arm64"
CPU = "cortex-a76"
"""The emulated CPU. qemu's default has SVE, which most phones lack and which is ten times slower to emulate."""

TARGETS = {"executorch": "executorch", "onnx": "onnxruntime", "litert": "litert", "mnn": "mnn"}
"""The runtime that runs a target's files there, by target."""

_RELEASE, _PYTHON = "bookworm", "3.11"
"""Fixed, whatever runs dwindle, so that the same code runs everywhere and counts compare between machines."""
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_PACKAGES = (f"python{_PYTHON}-minimal", f"libpython{_PYTHON}-stdlib", "libstdc++6", "libgomp1")
_OPTIONAL = {"ai-edge-litert": "2.3.0", "MNN": "3.6.1"}
"""The versions of the packages that may be absent here; the others are always installed."""
_PLATFORMS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
_LAYOUT = 1
"""To be raised when what `setup` makes changes, so that older folders are made again."""


def root() -> Path:
    """The folder that stands in for the machine."""
    return user_cache() / "arm64"


def missing() -> Missing | None:
    """What is missing to count ARM64 instructions here; None where nothing is."""
    if absent := _missing_on_host():
        return absent
    try:
        wanted = _wanted()
    except PackageNotFoundError as error:
        return Missing(
            f"the package {error.name} is not installed, and the emulation runs its ARM64 twin",
            f"pip install {error.name}",
        )
    try:
        made = json.loads((root() / "setup.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return Missing("the ARM64 emulation is not set up", SETUP)
    if made != wanted:
        return Missing("the ARM64 emulation was set up for other versions than are installed now", SETUP)
    return None


def setup(progress: Progress = lambda line: None) -> Path:
    """Makes the folder (100 MB to download, 250 MB on disk, under a minute) and returns it; at once if it exists.

    What was downloaded before an interruption isn't downloaded again; the folder appears whole or not at all.
    Raises RuntimeUnavailable naming the host's packages that are missing, DwindleError where a download fails.
    """
    if absent := _missing_on_host():
        raise absent.error("arm64")
    if missing() is None:
        progress(f"the ARM64 emulation is set up in {root()}")
        return root()
    downloads = user_cache() / "arm64-downloads"
    archives = _download_packages(downloads / "debian", progress)
    wheel_files = _download_wheels(downloads / "pypi", progress)
    progress("unpacking")
    with staged(root()) as scratch:
        for archive in archives:
            _run(["dpkg-deb", "--extract", str(archive), str(scratch)], f"cannot unpack {archive.name}")
        for wheel in wheel_files:
            _unpack(wheel, scratch / "site")
        _pretend_cpu(scratch)
        progress("starting it once")  # which also leaves the bytecode that later starts load
        imports = "import ai_edge_litert.interpreter, MNN, numpy, onnxruntime"
        command = emulated([*python(scratch), "-c", imports], scratch)
        variables = environment(scratch)
        del variables["PYTHONDONTWRITEBYTECODE"]
        _run(command, "the ARM64 emulation does not run on this machine", variables)
        (scratch / "setup.json").write_text(json.dumps(_wanted()), encoding="utf-8")
    shutil.rmtree(downloads)
    progress(f"the ARM64 emulation is set up in {root()}")
    return root()


def emulated(program: Sequence[str], sysroot: Path, options: Sequence[str] = ()) -> list[str]:
    """The command that runs an ARM64 program of the folder's or one linked to what is in it."""
    return ["qemu-aarch64", "-L", str(sysroot), *options, *program]


def python(sysroot: Path) -> list[str]:
    """The folder's own interpreter, which looks for modules there and nowhere else."""
    return [str(sysroot / "usr" / "bin" / f"python{_PYTHON}"), "-S", "-P", "-s"]


def environment(sysroot: Path) -> dict[str, str]:
    """All the variables an emulated program gets: the caller's might move a count."""
    return {
        "PATH": "/usr/bin:/bin",
        "QEMU_CPU": CPU,
        "PYTHONPATH": str(sysroot / "site"),
        # The first run on a folder and the tenth count the same: what was compiled stays, and nothing is added.
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONHASHSEED": "0",
        "OMP_NUM_THREADS": "1",
        # onnxruntime reports what it runs to Microsoft, in threads whose instructions would count.
        "ORT_DISABLE_TELEMETRY": "1",
    }


def _missing_on_host() -> Missing | None:
    """What is missing of this machine's packages that the emulation needs; None where nothing is."""
    if sys.platform != "linux" or not shutil.which("apt-get"):
        return Missing("the ARM64 emulation is made of Debian's packages, and this system has no apt-get")
    needed = {
        "qemu-user": shutil.which("qemu-aarch64"),
        "g++-aarch64-linux-gnu": shutil.which("aarch64-linux-gnu-g++"),
        "gcc": shutil.which("gcc"),
        "debian-archive-keyring": _KEYRING.exists(),
        "python3-pip": find_spec("pip"),
    }
    absent = [package for package, found in needed.items() if not found]
    if not absent:
        return None
    needs = f"the ARM64 emulation needs {', '.join(absent)}, which {'is' if len(absent) == 1 else 'are'} not installed"
    return Missing(needs, f"apt-get install {' '.join(absent)}")


def _wanted() -> dict[str, object]:
    return {"layout": _LAYOUT, "release": _RELEASE, "wheels": wheels()}


def wheels() -> dict[str, str]:
    """Distributions and their versions, those installed here: both machines run the same code."""
    found = {name: version(name) for name in ("executorch", "onnxruntime", "numpy")}
    found |= {name: _installed(name) or number for name, number in _OPTIONAL.items()}
    return {name: number.split("+")[0] for name, number in found.items()}  # PyPI has no local versions


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _download_packages(folder: Path, progress: Progress) -> list[Path]:
    """The .deb files of _PACKAGES and all they depend on, by an apt with a state of its own."""
    for name in ("state/lists/partial", "cache/archives/partial"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "status").touch()  # dpkg's, and empty: nothing is installed there yet
    (folder / "sources.list").write_text(
        f"deb [arch=arm64 signed-by={_KEYRING}] http://deb.debian.org/debian {_RELEASE} main\n", encoding="utf-8"
    )
    (folder / "apt.conf").write_text(
        f"""#clear APT::Architectures;
#clear APT::Update;
APT::Architecture "arm64";
APT::Architectures {{ "arm64"; }};
APT::Install-Recommends "false";
APT::Sandbox::User "";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Dir::State "{folder}/state";
Dir::State::status "{folder}/status";
Dir::Cache "{folder}/cache";
Dir::Etc::SourceList "{folder}/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
""",
        encoding="utf-8",
    )
    apt = ["apt-get", "--config-file", str(folder / "apt.conf"), "--quiet", "--yes"]
    failed = f"cannot download Debian's packages; {SETUP} goes on where this stopped"
    progress(f"downloading Debian {_RELEASE}'s list of arm64 packages")
    _run([*apt, "update"], failed)
    progress(f"downloading {', '.join(_PACKAGES)} and what they depend on")
    _run([*apt, "--download-only", "install", *_PACKAGES], failed)
    return sorted((folder / "cache" / "archives").glob("*.deb"))


def _download_wheels(folder: Path, progress: Progress) -> list[Path]:
    wanted = [f"{name}=={number}" for name, number in wheels().items()]
    progress(f"downloading aarch64 wheels of {', '.join(wanted)}")
    platforms = [flag for name in _PLATFORMS for flag in ("--platform", f"{name}_aarch64")]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    _run(
        [*pip, *platforms, "--python-version", _PYTHON, "--dest", str(folder), *wanted],
        f"cannot download aarch64 wheels from PyPI; {SETUP} goes on where this stopped",
    )
    names = tuple(wheel.replace("-", "_").replace("==", "-").lower() for wheel in wanted)
    return [file for file in sorted(folder.glob("*.whl")) if file.name.lower().startswith(names)]


def _unpack(wheel: Path, site: Path) -> None:
    """Unpacks a wheel; of executorch only what the runner links to, as its Python half needs torch."""
    kept = ("executorch/lib/", "executorch/include/") if wheel.name.startswith("executorch") else ""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site, [name for name in archive.namelist() if name.startswith(kept)])


def _pretend_cpu(sysroot: Path) -> None:
    """Writes one Cortex-A76 into /proc and /sys, without which onnxruntime crashes or takes the host's CPU for its own.

    Formats: the kernel's Documentation/ABI/testing/sysfs-devices-system-cpu and arch/arm64/kernel/cpuinfo.c.
    """
    files = dict.fromkeys(("kernel_max", "possible", "present", "online"), "0")
    files["cpu0/regs/identification/midr_el1"] = "0x00000000414fd0b1"
    for name, text in files.items():
        path = sysroot / "sys/devices/system/cpu" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")
    fields = {
        "processor": "0",
        "BogoMIPS": "52.00",
        "Features": "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
        "asimddp",
        "CPU implementer": "0x41",
        "CPU architecture": "8",
        "CPU variant": "0x4",
        "CPU part": "0xd0b",
        "CPU revision": "1",
    }
    (sysroot / "proc").mkdir()
    (sysroot / "proc/cpuinfo").write_text(
        "".join(f"{key}\t: {value}\n" for key, value in fields.items()) + "\n", encoding="utf-8"
    )


def _run(command: Sequence[str], failed: str, environment: dict[str, str] | None = None) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        said = [line for line in (done.stderr or done.stdout).splitlines() if line.strip()]
        cause = next((line for line in said if line.startswith(("E: ", "ERROR"))), said[-1] if said else "")
        raise DwindleError(f"{failed} ({cause or f'exit code {done.returncode}'})", code="setup-failed", name="arm64")
