"""What bench found, as it stands in bench.json. A figure that is None has its reason in `Row.reasons`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from dwindle.documents import Count, Range, Size, parse
from dwindle.errors import CheckpointError
from dwindle.files import write_json
from dwindle.manifest import Manifest
from dwindle.notebook import table
from dwindle.sealed import read_sealed_json, sealed_json

SCHEMA = 1
DENSE, COMPRESSED = "dense", "compressed"
Positive = Annotated[float, Range(math.ulp(0.0))]
"""A number above zero."""
Points = Annotated[float, Range(0, 100)]
"""A share of samples, in percent."""
PORTABLE = "portable kernels"
HOST = "host"
"""The machine that benches, among devices."""


@dataclass(frozen=True)
class Artifact:
    """An exported file."""

    path: str
    """Relative to the checkpoint."""
    sha256: str
    format: str
    """The target's name."""
    bytes: Size
    """Installed size."""
    deflated_bytes: Size
    fetched: tuple[Size, str | None] | None = None
    """What a device downloads, see Manifest; None of a dense file, and in an older bench.json: the file deflated."""

    @property
    def download_bytes(self) -> int:
        return self.fetched[0] if self.fetched else self.deflated_bytes


@dataclass(frozen=True)
class RuntimeUsed:
    name: str | None
    """None where no registered runtime loads this format."""
    version: str | None
    threads: Annotated[int, Range(1)]
    through: str | None = None
    """Which of a runtime's ways ran the file: `native runner`, `Python bindings: …` and why, None for the only one."""
    device: str | None = None
    """Where it ran, as `--device` has it: `ssh://pi@board`. None for the machine that benches."""
    machine: Machine | None = None
    """What that device is."""

    @property
    def place(self) -> str:
        """The runtime and its device, which tell rows of one file apart: `executorch on ssh://pi@board`."""
        return f"{self.name} on {self.device}" if self.device else self.name or ""


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one inference on a batch of one. Headlines: `typical` and `min`."""

    load: float
    """In a fresh process, the library imported; median over processes, as is the next."""
    first: float
    """The first inference; where it compiles the file, that of the process that found nothing compiled yet."""
    min: Positive
    median: Positive | None
    p95: Positive | None
    cpu_min: Annotated[float, Range(0)] | None
    """Of thread-CPU time, as is the next; None where there is no clock of it, in a browser."""
    cpu_median: Positive | None
    processes: int
    loads: int
    """In each process."""
    iterations: int
    """Inferences after each load, that went into the figures."""
    ci95: tuple[float, Positive] | None = None
    """Of `typical`, from how processes, loads and runs differ; None in an older bench.json, or without `typical`."""

    @property
    def typical(self) -> float | None:
        """The thread-CPU median, or where there is none the wall median."""
        return self.median if self.cpu_median is None else self.cpu_median


@dataclass(frozen=True)
class Compare:
    """A file's time over its baseline's, measured in the same rounds."""

    baseline: str
    """Path of the dense file of the same target."""
    ratio: Positive
    ci95: tuple[float, Positive]
    estimator: str


@dataclass(frozen=True)
class Share:
    """A share of samples, in points."""

    value: Points
    interval: tuple[Points, Points]
    """Wilson's 95% interval."""


@dataclass(frozen=True)
class Accuracy:
    """The task's metric over a split, in points, computed by the file itself."""

    metric: str
    value: float
    n: Annotated[int, Range(1)]
    """Samples that went through the file."""
    interval: tuple[Points, Points] | None
    """Wilson's 95% interval; None for a metric that is no share of samples."""
    split: str
    top1: Share | None = None
    """Samples whose label has the largest output; None where the task offers no labels, as is the next."""
    top5: Share | None = None
    """Whose label is among the five largest; None with five classes or fewer."""


@dataclass(frozen=True)
class McNemar:
    """The exact test of whether two files are right equally often (McNemar 1947), on the same samples."""

    lost: int
    """Samples that the dense file gets right and this one doesn't."""
    won: int
    p: float
    """Two-sided, from the binomial distribution of `lost` among `lost + won`."""


@dataclass(frozen=True)
class Picture:
    """An image that a file puts in another class than its baseline does."""

    sample: int
    """Its place in the split."""
    png: str
    """In base64."""
    label: Count
    """The index of the class that it is of."""
    before: Count
    """The class that the baseline puts it in."""
    now: Count


@dataclass(frozen=True)
class Agreement:
    """How far a file's classes are those of its baseline."""

    baseline: str
    """Path of the dense file of the same target."""
    value: float
    """Samples put in the same class, in points."""
    interval: tuple[float, float]
    """Wilson's 95% interval."""
    n: int
    changed: int
    """Samples put in another class."""
    samples: tuple[int, ...]
    """The first of them, by their place in the split."""
    mcnemar: McNemar
    pictures: tuple[Picture, ...] = ()
    """Those of them that are images, in the same order."""


@dataclass(frozen=True)
class Outputs:
    """How near a file's outputs are to its baseline's, where they aren't known to be the scores of classes."""

    baseline: str
    """Path of the dense file of the same target."""
    sqnr: dict[str, float]
    """By each output's name: the energy of the baseline's over that of the differences from it, in dB."""
    n: int
    """How many samples of the test split were compared."""


@dataclass(frozen=True)
class Parity:
    """How far what a file computes on a device is from what it computes on this machine."""

    relative: float
    """Largest difference, over the largest output."""
    tolerance: float | None
    """What `relative` has to stay under: the manifest's."""
    samples: int
    reference: str
    """This machine's runtime."""


@dataclass(frozen=True)
class Noise:
    """Whether a file's times can be believed, and from what that was judged."""

    quiet: bool
    reasons: tuple[str, ...]
    """What speaks against them, in words; empty for a quiet run."""
    cpu_over_wall: float | None
    """Share of its time in which the measured thread had the CPU; None where the kernel won't say."""
    drift: float | None
    """By how much the thread's median CPU time exceeds the quickest inference's wall time, as a share; None where a
    throttle makes it."""
    switches_per_second: float
    pressure: float | None
    """Share of the time in which some task on the machine waited for a CPU."""
    load: float


@dataclass(frozen=True)
class Cost:
    """What one inference executes on an emulated ARM64 CPU: the same every time, and not a time."""

    instructions: dict[str, Count]
    """By class: `all`, `load_store`, `simd` (of which `fmla` and `dot`), `int`, `branch`."""
    ratio: Positive | None
    """Over those of the dense file of the same target; None for that file itself, or where it has no count."""
    macs: int
    """Multiply-accumulates executed."""
    network_macs: int | None
    """Those of the network's layers; None where the checkpoint doesn't say. More are executed where a kernel's
    tile reaches past an edge."""
    sparse: dict[str, int] | None
    """Instructions with the runtime's sparse kernels, where they were asked for."""
    relative: float | None
    """Largest difference from what the file computes on this machine, over the largest output."""
    tolerance: float | None
    """What `relative` has to stay under: the manifest's."""
    runtime: str
    emulator: str
    """Both with their versions."""
    cpu: str


@dataclass(frozen=True)
class Operator:
    """A step of an inference, as the runtime's own profiler times it: slower than unobserved, so shares matter."""

    name: str
    kind: str
    ms: float
    """Mean wall time in one inference, without the slowest twentieth of many."""
    share: float
    """Of all operators' time."""
    where: str
    """What ran it: `XNNPACK`, say, or PORTABLE for one of ExecuTorch's that no delegate took."""


@dataclass(frozen=True)
class Row:
    """One file in one runtime."""

    target: str
    role: str
    """`dense` or `compressed`."""
    precision: str
    encoding: str
    artifact: Artifact
    runtime: RuntimeUsed
    compression: Positive | None
    """Compression ratio: bytes of the dense fp32 ONNX file over this file's."""
    latency: Latency | None = None
    compare: Compare | None = None
    accuracy: Accuracy | None = None
    agreement: Agreement | None = None
    outputs: Outputs | None = None
    """None where `agreement` compares classes, where there is no accuracy, and for the baseline itself."""
    memory_bytes: Count | None = None
    """Growth of the peak resident set from loading the file and running it once."""
    noise: Noise | None = None
    cost: Cost | None = None
    parity: Parity | None = None
    """None on this machine, where export has compared the file with the checkpoint."""
    operators: tuple[Operator, ...] | None = None
    """The slowest first; None where no profile was asked for, which is no reason to be told."""
    reasons: dict[str, str] = field(default_factory=dict)
    """Why a figure is None, by its name (`latency`, `latency.median`, `accuracy`, …)."""
    untried: tuple[str, ...] = ()
    """The names of the figures that nobody tried to take in this runtime: it isn't installed here, another program
    stood in for it, or its device doesn't tell them. A figure that is None and isn't one of these was tried, and
    failed."""


def smaller(row: Row, rows: Iterable[Row]) -> float | None:
    """The bytes of the dense file of a row's target over its own; None for the dense file itself."""
    if row.role == DENSE:
        return None
    dense = (other for other in rows if (other.target, other.role) == (row.target, DENSE))
    return next((other.artifact.bytes / row.artifact.bytes for other in dense), None)


def drop(row: Row, rows: Iterable[Row]) -> float | None:
    """Points of the metric that a compressed file lost against the dense one in the same runtime."""
    if row.role == DENSE or not row.accuracy:
        return None
    baseline = (row.target, DENSE, row.runtime.place)
    dense = (other for other in rows if (other.target, other.role, other.runtime.place) == baseline)
    return next((other.accuracy.value - row.accuracy.value for other in dense if other.accuracy), None)


@dataclass(frozen=True)
class Predicted:
    """How long one inference of a file takes on a device, as a profile of the device has it, and not as measured."""

    path: str
    """The file, relative to the checkpoint."""
    target: str
    role: str
    """`dense` or `compressed`."""
    profile: str
    """As it was given: the profile's file, or the name of one that comes with dwindle."""
    device: str
    """What the profile is of, as it calls itself."""
    ms: Positive | None
    """Milliseconds; None where the profile is not of such files, as is the next."""
    interval: tuple[Positive, Positive] | None
    """Nine in ten times are within it, as far as the profile's own networks tell."""
    measured: Positive | None
    """Milliseconds of the same file on that very device, by the profile's clock; None where nobody measured there."""
    reason: str | None
    """Why there is no prediction; None where there is one."""
    note: str | None
    """Where the profile's figures come from; None for one that was measured on the device."""

    @property
    def ratio(self) -> float | None:
        """The predicted time over the measured one; None where one of them is absent."""
        return self.ms / self.measured if self.ms and self.measured else None


@dataclass(frozen=True)
class Machine:
    cpu: str
    cores: int
    system: str
    conditions: dict[str, str] = field(default_factory=dict)
    """What its speed depends on, as it was when measuring began: `cpufreq`, `thermal`, `battery`, in words."""


@dataclass(frozen=True)
class Bench:
    """Everything measured of a checkpoint's exports in one run."""

    rows: tuple[Row, ...]
    machine: Machine
    seed: int
    made: str
    """When, ISO 8601 in UTC."""
    dwindle: str
    """Version that measured."""
    network: str = ""
    """What the checkpoint is of, such as `zoo:resnet8 on digits`: figures of another are no baseline for it."""
    predicted: tuple[Predicted, ...] = ()
    """What the profile that was given as `on` predicts of each file, in the order of the exports; empty without one."""
    schema: int = SCHEMA

    def _repr_html_(self) -> str:
        """A table with a row per file and runtime, for a notebook."""

        def cells(row: Row) -> tuple[str, ...]:
            ratio, lost = smaller(row, self.rows), drop(row, self.rows)
            return (
                row.artifact.path,
                row.runtime.place,
                f"{row.artifact.bytes:,}",
                f"{ratio:.1f}×" if ratio else "",
                f"{row.accuracy.value:.2f}" if row.accuracy else "",
                "" if lost is None else f"{-lost:+.2f}",
                f"{row.latency.min:.3g}" if row.latency else "",
                f"{row.latency.load:.3g}" if row.latency else "",
                f"{row.compare.ratio:.3f}" if row.compare else "",
                f"{row.memory_bytes:,}" if row.memory_bytes is not None else "",
            )

        metric = " or ".join(sorted({row.accuracy.metric for row in self.rows if row.accuracy}))
        measured = ("least ms", "ms to load", "time / dense", "bytes of memory")
        head = ("file", "runtime", "bytes", "smaller", metric, "change", *measured)
        return table(self.network, map(cells, self.rows), head)

    def save(self, path: Path) -> None:
        """Writes bench.json with its seal; raises DwindleError where it can't be written."""
        write_json(path, sealed_json(asdict(self)))

    @classmethod
    def load(cls, path: Path | str) -> Bench:
        """Reads bench.json.

        Raises CheckpointError if it is missing, damaged, altered since it was written, of another schema, or holds a
        figure that nothing can have measured.
        """
        path, again = Path(path), "run `dwindle bench` again"
        document = read_sealed_json(path, again)
        if (schema := document.get("schema")) != SCHEMA:
            message = f"{path} has schema {schema!r:.20}, not {SCHEMA}: {again}"
            raise CheckpointError(message, code="other-schema", path=path)
        found: Bench = parse(cls, document, path, again)
        for one in found.predicted:
            if one.ms and one.interval and not one.interval[0] <= one.ms <= one.interval[1]:
                message = f"{path} predicts a time of {one.path} outside of its own interval, which can't be: {again}"
                raise CheckpointError(message, code="implausible", path=path, name=one.path)
        for row in found.rows:
            if odd := next(_implausible(row), None):
                message = f"{path} says of {row.artifact.path} that {odd}, which can't be: {again}"
                raise CheckpointError(message, code="implausible", path=path, name=row.artifact.path)
        return found

    def find(self, target: str, role: str) -> tuple[Row, ...]:
        """A target's rows for the dense or the compressed file, one per runtime."""
        return tuple(row for row in self.rows if row.target == target and row.role == role)

    def describes(self, manifest: Manifest) -> bool:
        """Whether these figures are of the very files that the manifest vouches for."""
        hashes = {DENSE: manifest.dense.sha256, COMPRESSED: manifest.file.sha256}
        return all(
            (found := self.find(manifest.target, role)) and {row.artifact.sha256 for row in found} == {sha256}
            for role, sha256 in hashes.items()
        )


def _implausible(row: Row) -> Iterator[str]:
    """What a row says that no measurement can have found, each in words that follow "that".

    Each figure by itself is in its range already; this is how figures go together.
    """
    if row.role not in (DENSE, COMPRESSED):
        yield f"its role is {row.role!r}"
    if row.cost and row.cost.instructions.get("all", 0) < 1:
        yield "an inference takes no instructions"
    for what, interval in (
        ("time", row.latency.ci95 if row.latency else None),
        ("ratio", row.compare.ci95 if row.compare else None),
        ("accuracy", row.accuracy.interval if row.accuracy else None),
    ):
        if interval and interval[0] > interval[1]:
            yield f"the interval of its {what} ends before it begins"
    if row.compare and row.compare.ratio > row.compare.ci95[1]:
        yield "its ratio lies above the interval of it"
    # What a metric that is no share of samples can come to isn't known.
    share = row.accuracy if row.accuracy and (row.accuracy.metric == "accuracy" or row.accuracy.interval) else None
    if share and not 0 <= share.value <= 100:
        yield f"its {share.metric} is {share.value:g} points"
