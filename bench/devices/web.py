"""The npm packages that run files in a browser, each of one version and verified by its hash, in the user's cache."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dwindle.bench.missing import Missing
from dwindle.bench.run import Progress
from dwindle.errors import DwindleError
from dwindle.files import staged, user_cache

SETUP = "dwindle doctor --setup browser"
EXTRA = 'pip install "dwindle[browser]"'
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


@dataclass(frozen=True)
class Package:
    """A package of npm's, and the files in it that a page needs."""

    name: str
    version: str
    sha512: str
    """The hash of its tarball in base64, as the registry's `dist.integrity` has it."""
    files: tuple[str, ...]


PACKAGES = (
    Package(
        "onnxruntime-web",
        "1.30.0",
        "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ==",
        ("dist/ort.wasm.min.mjs", "dist/ort-wasm-simd-threaded.mjs", "dist/ort-wasm-simd-threaded.wasm"),
    ),
    Package(
        "@litertjs/core",
        "2.5.3",
        "PlGmbMOq9WitX7FO0jhbdJw9GthatsyuCQXjTt/wJZo0FLaw48q4tz8IwqgqCIkviYGr9OFDL1kCnN4nzWoyJQ==",
        (
            "package.json",
            "dist/index.js",
            "wasm/litert_wasm_internal.js",
            "wasm/litert_wasm_internal.wasm",
            "wasm/litert_wasm_threaded_internal.js",
            "wasm/litert_wasm_threaded_internal.wasm",
        ),
    ),
    Package(
        "@litertjs/wasm-utils",  # which the one before imports
        "2.5.3",
        "4fJiw6tBQnIs+0jH/OQ16nYOiSl8/+zZnn5h2ul8aTKHi05sVqZW580Tmk78pC2kT39A9OYBVdFawteZ/sI1kQ==",
        ("dist/index.js",),
    ),
)


def root() -> Path:
    """The folder that holds a folder for every package, named like it."""
    return user_cache() / "browser"


def chromium() -> str | None:
    """The path of the system's own Chromium or Chrome, if there is one; playwright's download is not needed."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


def missing() -> Missing | None:
    """What is missing to run files in a browser here; None where nothing is."""
    if chromium() is None:
        return Missing("no Chromium is on the path", "apt-get install chromium")
    if not find_spec("playwright"):
        return Missing("Chromium is driven by the package playwright, which is not installed", EXTRA)
    if not _made():
        return Missing("what runs files in a browser is not downloaded, or is of another version", SETUP)
    return None


def setup(progress: Progress = lambda line: None) -> Path:
    """Downloads PACKAGES with npm (37 MB, of which 33 stay) and returns their folder; at once if it exists.

    It appears whole or not at all. Raises RuntimeUnavailable where npm isn't installed, DwindleError where a download
    fails or isn't the package that was expected.
    """
    if not _made():
        npm = shutil.which("npm")
        if npm is None:
            raise Missing("what runs files in a browser is downloaded by npm", "apt-get install npm").error("browser")
        with staged(root()) as scratch:
            for package in PACKAGES:
                progress(f"downloading {package.name} {package.version}")
                _fetch(npm, package, scratch / package.name)
            (scratch / "setup.json").write_text(json.dumps(_wanted()), encoding="utf-8")
    progress(f"what runs files in a browser is in {root()}")
    return root()


def _made() -> bool:
    try:
        return bool(json.loads((root() / "setup.json").read_text(encoding="utf-8")) == _wanted())
    except (OSError, ValueError):
        return False


def _wanted() -> dict[str, str]:
    return {package.name: package.version for package in PACKAGES}


def _fetch(npm: str, package: Package, folder: Path) -> None:
    which = f"{package.name}@{package.version}"
    with tempfile.TemporaryDirectory() as name:
        command = [npm, "pack", "--silent", "--ignore-scripts", "--pack-destination", name, which]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=name)
        archive = next(Path(name).glob("*.tgz"), None)
        if done.returncode or archive is None:
            said = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
            why = said[-1] if said else f"exit code {done.returncode}"
            raise DwindleError(f"npm can't download {which}: {why}", code="setup-failed", name=package.name)
        unpack(archive, package, folder)


def unpack(archive: Path, package: Package, folder: Path) -> None:
    """Puts the package's files into `folder`; raises DwindleError for a tarball that isn't the one expected."""
    found = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if found != package.sha512:
        raise DwindleError(
            f"the download of {package.name}@{package.version} from npm has the SHA-512 {found[:12]}…, and "
            f"{package.sha512[:12]}… was expected: it is not used",
            code="other-content",
            name=package.name,
        )
    with tarfile.open(archive) as tar:
        for name in package.files:
            content = tar.extractfile(f"package/{name}")
            assert content is not None  # the hash says what is in it
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.read())


def browser_version() -> str:
    """What the browser calls itself, such as `Chromium 156.0.8078.79`."""
    path = chromium()
    assert path is not None
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout.split()
    return " ".join(said[: next((i + 1 for i, word in enumerate(said) if word[:1].isdigit()), 1)]) or path
