"""The contract of a device: something that exported files are measured on, this machine among them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Self

from dwindle.bench.machine import Reading, busy_here, this_machine
from dwindle.bench.result import Bench, Machine, Row
from dwindle.errors import DwindleError, ParityFailed, RuntimeUnavailable, UsageError

if TYPE_CHECKING:
    from dwindle.bench.missing import Missing
    from dwindle.bench.run import Run
    from dwindle.bench.runtimes.runtime import Launcher


class Device(ABC):
    """A device, by the name that `dwindle bench --device` has for it. Third parties add a kind of devices by a subclass
    and an entry point, whose name is the subclass's `scheme`:

        [project.entry-points."dwindle.devices"]
        board = "my_package:Board"

    makes `--device board`, `board:4` or `board://name` a `my_package.Board`; the command's help, `dwindle doctor`,
    `doctor --setup`, the gate's `[gate.device.NAME]` and the list of what there is follow from its members. Importing
    the module must be quick: whatever is heavy is imported by the methods that use it.

    A device is a context manager: entering connects to it, leaving removes what was brought there.
    """

    scheme: ClassVar[str]
    """The beginning of its names, and the name of its entry point: `ssh`."""
    usage: ClassVar[str]
    """How its names are written, for the command's help: `ssh://user@host[:port]`."""
    summary: ClassVar[str]
    """What it is, for the command's help, in one line without a full stop."""
    targets: Sequence[str] = ()
    """The export targets whose files it runs."""
    not_yet_run_on: ClassVar[str | None] = None
    """The hardware that this code was written for and has not met, such as `Apple hardware`, so that the device is
    experimental; None where it has run on such hardware."""
    times: ClassVar[bool] = True
    """Whether it fills in rows of its own, with times. One that doesn't adds another figure to this machine's rows."""
    options: ClassVar[frozenset[str]] = frozenset()
    """Which of the options `sparse` and `profile` it supports."""
    setup_downloads: ClassVar[str | None] = None
    """What `setup` downloads, for the command's help: `37 MB from npm`. None where there is nothing to set up."""
    never_known: ClassVar[Mapping[str, str]] = {}
    """Why it can't measure some figures of a row, by their names in `Row.reasons`."""

    url: str
    """Its name in rows: what `--device` was given, in one spelling. The name of this machine is HOST."""
    machine: Machine
    """What it is; known once it is entered."""

    def __init__(self, name: str) -> None:
        """Raises UsageError where `name` is not the name of such a device. Connects to nothing yet."""
        if name != self.scheme:
            raise self.malformed(name, f"write `{self.scheme}`")
        self.url = name

    @classmethod
    @abstractmethod
    def check(cls) -> Missing | None:
        """What is missing on this machine to reach any such device; None where nothing is."""

    @classmethod
    @abstractmethod
    def found(cls) -> str:
        """What is there, with its versions, for `dwindle doctor`. Called where `check` finds nothing missing."""

    @classmethod
    def incomplete(cls) -> Missing | None:
        """What is missing for a part of what such devices can do; None where nothing is."""
        return None

    @classmethod
    def setup(cls, progress: Callable[[str], None]) -> Path:
        """Prepares this machine and returns the folder that was made, at once where it is there already.

        Only called where `setup_downloads` says what that fetches. Raises RuntimeUnavailable naming what is missing,
        DwindleError where a download fails.
        """
        raise NotImplementedError

    @classmethod
    def malformed(cls, name: str, remedy: str) -> UsageError:
        """The error for a name that begins as this kind of device's do and isn't one; `remedy` says what to write."""
        return UsageError(f"{name!r} is not the name of a device: {remedy}", code="malformed-name", name=name)

    def __enter__(self) -> Self:
        """Connects. Raises RuntimeUnavailable where that fails or something is missing here."""
        if missing := self.check():
            raise missing.error(self.url)
        self.machine = this_machine()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Removes what was brought there."""
        return

    def require_threads(self, threads: int) -> None:
        """Raises UsageError where it is known, without connecting, that the device hasn't so many cores."""
        return

    def busy(self) -> Reading:
        """How busy the device is now, by its own kernel."""
        return busy_here()

    def runtimes(self) -> Sequence[Launcher]:
        """The runtimes that run files there."""
        return ()

    def measure(self, run: Run, bench: Bench) -> Bench:
        """Returns `bench` with this device's figures of the checkpoint's files, in place of its earlier ones.

        Files that a runtime can't run, or dies on, have the reason in their rows; the others go on.
        """
        others = tuple(row for row in bench.rows if row.runtime.device != self.url)
        return replace(bench, rows=(*others, *self._rows(run)))

    def failure(self, bench: Bench) -> DwindleError | None:
        """The error where nothing was measured on this device, a figure is missing, or a file's outputs differ from
        this machine's; None where all is well."""
        rows = [row for row in bench.rows if row.runtime.device == self.url]
        if not rows:
            takes = " or ".join(self.targets)
            return RuntimeUnavailable(
                f"nothing was measured on {self.url}, which takes {takes} files: export them", code="no-files",
                name=self.url,
            )  # fmt: skip
        for row in rows:
            for figure, value in (("latency", row.latency), ("accuracy", row.accuracy)):
                if value is None and figure not in self.never_known:
                    return RuntimeUnavailable(
                        f"no {figure} of {row.artifact.path} on {self.url}: {row.reasons[figure]}",
                        code="unmeasured",
                        name=self.url,
                        path=row.artifact.path,
                    )
            if row.parity and (wrong := parity_failure(row, self.url, row.parity.relative, row.parity.tolerance)):
                return wrong
        return None

    def _rows(self, run: Run) -> list[Row]:
        """The rows of the files that its runtimes run, their outputs compared with those of this machine."""
        from dwindle.bench.pair import Place, measured_pair
        from dwindle.bench.reference import SAMPLES, Reference

        reference = Reference(run.root, run.samples(SAMPLES), run.tolerances)
        place = Place(self.url, self.machine, self.busy, self.never_known)
        blanks, rows = {pair[0].target: pair for pair in run.blank_pairs()}, []
        for runtime in self.runtimes():
            blank = blanks.get(runtime.target)
            if blank and runtime.applies_to(run.root / blank[1].artifact.path):
                compared = partial(reference.compared, within=runtime.tolerance)
                rows += measured_pair(run, runtime, blank, place, compared)
        return rows


def parity_failure(row: Row, where: str, relative: float, tolerance: float | None) -> ParityFailed | None:
    """The error for a file whose outputs on a device are further from this machine's than allowed, if they are.

    Both numbers are over the largest output; a difference that is NaN is never allowed.
    """
    if tolerance is None or relative <= tolerance:
        return None
    return ParityFailed(
        f"{row.artifact.path} computes something else on {where} than here: outputs differ by {relative:.1e} of the "
        f"largest, and {tolerance:.0e} is allowed",
        code="parity",
        path=row.artifact.path,
        name=where,
    )
