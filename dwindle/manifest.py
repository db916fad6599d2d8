"""The manifest beside an exported file: what export knows of the file and bench needs to know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated

from dwindle.documents import Count, FileName, Range, Share, Size, parse
from dwindle.errors import CheckpointError
from dwindle.files import deflated_bytes, raw_bytes, sha256, write_json
from dwindle.notebook import table
from dwindle.preprocessing import Preprocessing
from dwindle.price import Layers
from dwindle.quantities import format_bytes
from dwindle.sealed import read_sealed_json, sealed_json
from dwindle.signature import Signature

NAME = "manifest.json"
_ROLES = ("net.", "dense.")
"""What the names of exported files begin with."""
_REMEDY = "run `dwindle export` again"
_INFLATED = 1.1
"""A file that is this many times larger than it was exported is taken for one whose weights were unpacked."""


@dataclass(frozen=True)
class File:
    """An exported file (or folder, for an .mlpackage) and what it weighs."""

    name: FileName
    sha256: str
    bytes: Size
    """Installed size in bytes."""
    deflated_bytes: Size
    """Download size in bytes: each file deflated at level 9, as an app store's zip does."""

    @classmethod
    def of(cls, path: Path) -> File:
        return cls(path.name, sha256(path), raw_bytes(path), deflated_bytes(path))


@dataclass(frozen=True)
class Parity:
    """How an exported file was compared with the network it came from. Figures are None where it can't be run here."""

    max_abs: Annotated[float, Range(0)] | None
    """Largest absolute difference of `output`, of all outputs the nearest to its tolerance."""
    relative: Annotated[float, Range(0)] | None
    """`max_abs` over the largest absolute value of the reference; of whole numbers, the share that differs."""
    tolerance: Annotated[float, Range(0)] | None
    """The most that `relative` was allowed to be: what rounding explains, or what was given in its place."""
    top1_agreement: Share | None
    """Share of samples whose largest output is the same in both; None where outputs are no scores by class."""
    samples: Count
    weights_equal: Count | None
    """Tensors read back from the file and found bit-equal; None where the format keeps them out of reach."""
    not_run: str | None = None
    """Why the outputs were not compared; None where they were."""
    run_by: str | None = None
    """What ran the file, where that was not the format's own runtime."""
    explained: Annotated[float, Range(0)] | None = None
    """What rounding explains, where another `tolerance` was given in its place; None where that is `tolerance`."""

    output: str | None = None
    """The name of the output that the figures are of."""
    sizes: tuple[str, ...] = ()
    """The other sizes of inputs that it was compared at, such as `image:2=96, image:3=96`; empty where none varies."""

    constant: tuple[str, ...] = ()
    """The outputs that the network gives alike for all samples, within the tolerance: a file that answers a constant
    would pass there. Empty where there was one sample, or an older version of dwindle wrote it."""

    @property
    def doubts(self) -> tuple[str, ...]:
        """A sentence for each reason why the comparison proves less than it seems to."""
        alike = (
            f"the network gives {' and '.join(self.constant)} alike for all {self.samples} samples, so that a file "
            "which answers a constant would pass too: compare on inputs for which it differs"
        )
        return tuple(filter(None, (self.widened, alike if self.constant else None)))

    @property
    def widened(self) -> str | None:
        """A sentence about a given tolerance that allows more than rounding explains; None where there is none."""
        if self.relative is None or self.tolerance is None or self.explained is None:
            return None
        if self.tolerance <= self.explained:
            return None
        return (
            f"its outputs are off by {self.relative:.1e} of the largest, within the tolerance {self.tolerance:g} that "
            f"was given, where rounding explains {self.explained:.0e}"
        )


@dataclass(frozen=True)
class Quality:
    """What storing weights in fewer bits cost, against the same network in fp32."""

    sqnr: float | None
    """Signal to quantisation noise of the outputs, in decibels, the lowest of `outputs`; None where they are equal."""
    top1_agreement: Share | None
    """Share of samples whose largest output is the same in both; None where outputs are no scores by class."""
    samples: Count
    tensors: dict[str, float]
    """Signal to quantisation noise of each tensor that was changed, by its name in the network as it ships."""
    outputs: dict[str, float] = field(default_factory=dict)
    """Signal to quantisation noise of each output that was changed, by its name."""


@dataclass(frozen=True)
class Breakdown:
    """What the bytes of an exported file are spent on. The four add up to the file's bytes."""

    mask: int
    """Which weights survive, in whatever code."""
    values: int
    """The values of weights, with the biases where the format stores both alike."""
    graph: int
    """Operators, their connections and names, and the functions that unpack weights."""
    rest: int
    """Other biases, shapes, tables of contents, padding."""

    @classmethod
    def of(cls, total: int, *, mask: int, values: int, graph: int) -> Breakdown:
        """The breakdown of a file of `total` bytes. Raises ValueError where the parts are more than the file."""
        rest = total - mask - values - graph
        if rest < 0:
            raise ValueError(
                f"mask {mask}, values {values} and graph {graph} are more than the {total} bytes of the file"
            )
        return cls(mask, values, graph, rest)


@dataclass(frozen=True)
class Consumer:
    """A program of others that reads files of a format, and whether it loads this one."""

    name: str
    """What it is called, such as `onnxruntime-web`."""
    oldest: str | None
    """The oldest version that is known to load the file; None where none is."""
    why: str | None = None
    """What keeps older versions, or all of them, from loading it; None where nothing of the file's own does."""

    def __str__(self) -> str:
        loads = f"{self.name} {self.oldest} or later" if self.oldest else f"not {self.name}"
        return f"{loads} ({self.why})" if self.why else loads


@dataclass(frozen=True)
class Manifest:
    """One target's export: the compressed network's file and, for comparison, the dense network's.

    >>> manifest = Manifest.read(Path("net.dwindle/exports/onnx"))
    >>> format_bytes(manifest.file.bytes), format_bytes(manifest.dense.bytes), manifest.parity.samples
    ('24.9 KB', '311 KB', 64)
    """

    target: str
    precision: str
    encoding: str
    """How the weights lie in the file, in words: `bitmask + fp32 survivors`, `dense`, …"""
    file: File
    dense: File
    parity: Parity
    versions: dict[str, str]
    dense_precision: str | None = None
    """The precision of the dense file; None where it is that of the compressed file."""
    quality: Quality | None = None
    """What the precision cost; None for one that keeps fp32 as it is."""
    download: File | None = None
    """The file compressed as a whole, for an app that unpacks it when it first starts; None where zeros are packed in
    the file itself."""
    packing: str = "auto"
    """`none` where zeros were to be stored like any other weight, else `auto`."""
    compute: str | None = None
    """What the file was asked to compute in; None: the target's own choice."""
    fp32: tuple[str, ...] = ()
    """The operations that compute in fp32 in a file that computes in fp16, which does not hold their values; and in one
    that computes in int8 the layers that were kept float and the kinds of operators that have no int8 form."""
    calibration_samples: Count | None = None
    """How many samples set the ranges of activations; None where those aren't rounded."""
    rounding: str = "nearest"
    """How weights became codes, where `precision` has any: `export.target.ROUNDINGS`."""
    preprocessing: Preprocessing | None = None
    """How an image becomes an input of the file; None where the task doesn't say, or an older dwindle wrote it."""
    signature: Signature | None = None
    """The file's inputs and outputs, in its order; None where an older version of dwindle wrote it."""
    softmax: bool = False
    """Whether the file's scores are probabilities, made by a softmax of the logits that the checkpoint's network gives;
    parity compares the file with the softmax of the network's."""
    consumers: tuple[Consumer, ...] = ()
    """The programs that load the file, and those that don't; empty where the format has one reader, or an older version
    of dwindle wrote it."""
    breakdown: Breakdown | None = None
    """What the bytes of `file` are spent on; None where the target cannot tell, or dwindle wrote it before it could."""

    layers: Layers = field(default_factory=dict)
    """The convolutions and linear layers of `file`, by which its time on other devices is predicted; empty where it has
    none, or an older version of dwindle wrote it."""
    dense_layers: Layers | None = None
    """Those of the dense file; None where they are those of `file`, as no channel was removed."""
    zeros: tuple[str, ...] = ()
    """What the pruning of this network brings in this file: a sentence for the zeros and one for the removed channels,
    where there are any. Empty where nothing was pruned, or an older version of dwindle wrote it."""

    @property
    def fetched(self) -> tuple[int, str | None]:
        """The bytes of the compressed file that a device downloads, and the name of `download` where that is the file.

        The name is None where the deflated file is smaller, or `download` is None.
        """
        if self.download and self.download.bytes < self.file.deflated_bytes:
            return self.download.bytes, self.download.name
        return self.file.deflated_bytes, None

    def write(self, folder: Path) -> None:
        write_json(folder / NAME, sealed_json(asdict(self)))

    def _repr_html_(self) -> str:
        """A table of what was exported, for a notebook."""
        rows = {
            "precision": self.precision,
            "encoding": self.encoding,
            "bytes": f"{self.dense.bytes:,} → {self.file.bytes:,}",
            "largest difference": self.parity.not_run or f"{self.parity.relative:.1e} of the largest output",
        }
        return table(self.target, rows.items())

    @property
    def files(self) -> tuple[File, ...]:
        return tuple(filter(None, (self.file, self.dense, self.download)))

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Reads the manifest in `folder` and checks that the files are the ones it describes.

        Raises CheckpointError naming what is missing or altered.
        """
        manifest = cls.parsed(folder)
        for file in manifest.files:
            if reason := altered(folder, file):
                raise CheckpointError(reason, code="altered", path=folder / file.name)
        return manifest

    @classmethod
    def parsed(cls, folder: Path) -> Manifest:
        """Reads a manifest without looking at its files; raises CheckpointError where that fails."""
        path = folder / NAME
        manifest: Manifest = parse(cls, read_sealed_json(path, _REMEDY), path, _REMEDY)
        return manifest


def written(folder: Path) -> Callable[[str], bool]:
    """A function that says of a name in a target's folder whether an export wrote it; all else is the user's own."""
    if not (folder / NAME).exists():
        return lambda name: name.startswith(_ROLES) and name.endswith(".rejected")
    try:
        names = {NAME, *(file.name for file in Manifest.parsed(folder).files)}
    except CheckpointError:  # of an older version, or damaged: then only the names tell
        return lambda name: name == NAME or name.startswith(_ROLES)
    return lambda name: name in names or (name.startswith(_ROLES) and name.endswith(".rejected"))


def altered(folder: Path, file: File) -> str | None:
    """A sentence about how an exported file has changed since; None where it hasn't."""
    path = folder / file.name
    if not path.exists():
        return f"{path} is missing: {_REMEDY}"
    if sha256(path) == file.sha256 and raw_bytes(path) == file.bytes:
        return None
    if (size := raw_bytes(path)) > _INFLATED * file.bytes:
        return (
            f"{path} is not the file its manifest describes: it was exported with {format_bytes(file.bytes)} and has "
            f"{format_bytes(size)} now, as if a tool that folds constants had unpacked its weights; run "
            "`dwindle export` again, and let no such tool write the file"
        )
    return f"{path} is not the file its manifest describes: {_REMEDY}"


def manifests(exports: Path) -> list[tuple[Path, Manifest]]:
    """Every export under a checkpoint's `exports/`, by target name, each verified.

    Raises CheckpointError for one that is damaged, and for one that lies in another target's folder or in a copy of
    its own: a folder is called what its target is called, so that no target has two.
    """
    found = [(path.parent, Manifest.read(path.parent)) for path in sorted(exports.glob(f"*/{NAME}"))]
    for folder, manifest in found:
        if folder.name != manifest.target:
            raise CheckpointError(
                f"{folder} is a copy of an export for {manifest.target}, whose place is {exports / manifest.target}: "
                f"move it out of {exports}",
                code="misplaced-export",
                path=folder,
                name=manifest.target,
            )
    return found
