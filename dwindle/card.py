"""A model card in Markdown, with the front matter that Hugging Face's hub reads, from what a checkpoint holds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from dwindle.bench.result import Row
from dwindle.files import sha256
from dwindle.foreign import markdown, single_line
from dwindle.lineage import Lineage, lineages
from dwindle.metrics import ACCURACY
from dwindle.origin import command_line
from dwindle.quantities import format_bytes

_LIBRARIES = {
    **{"ONNX": "onnx", "Core ML": "coreml", "ExecuTorch": "executorch", "LiteRT": "tflite", "MNN": "mnn"},
    "PyTorch": "pytorch",
}
"""What the hub calls the library of each format."""
_HUB = "hf:"
"""How the names of networks begin that are a repository of the hub."""


def card(path: Path | str, *, spdx_license: str | None = None) -> str:
    """The model card of a checkpoint with exports, or of a model file.

    Names that the files hold are shown as they stand: no tag, link or table begins in one.

        >>> print(card("net.dwindle", spdx_license="Apache-2.0").splitlines()[1])
        license: "apache-2.0"

    Args:
        path: the checkpoint, or a model file of any origin.
        spdx_license: the model's licence, as SPDX or the hub has it; nothing is said of it otherwise.

    Raises UsageError for what isn't there or has no exports, and CheckpointError for damaged documents and files.
    """
    found = lineages(Path(path))
    sections = [
        _front_matter(found, spdx_license),
        f"# {markdown(Path(path).stem)}",
        _lead(found[0]),
        *_files(found),
        *_quality(found),
        *_rounds(found[0]),
        *_made(found[0], Path(path).name),
    ]
    return "\n\n".join(sections) + "\n"


def _front_matter(found: list[Lineage], licence: str | None) -> str:
    """YAML, in which every text is JSON's."""
    formats = [one.contents.format for one in found if one.contents]
    values: dict[str, object] = {"license": licence.lower()} if licence else {}
    if formats:
        values["library_name"] = _LIBRARIES.get(formats[0], formats[0].lower())
    model = found[0].model or ""
    if model.startswith(_HUB) and "/" in model:
        values["base_model"] = model.removeprefix(_HUB).partition("@")[0]
    pruned = ["pruned"] if found[0].checkpoint else []
    values["tags"] = [*dict.fromkeys(_LIBRARIES.get(one, one.lower()) for one in formats), *pruned, "dwindle"]
    if found[0].checkpoint and found[0].checkpoint.metric == ACCURACY:
        values["metrics"] = [ACCURACY]
    return "\n".join(["---", *(f"{name}: {json.dumps(value)}" for name, value in values.items()), "---"])


def _lead(lineage: Lineage) -> str:
    if not lineage.checkpoint:
        return "A model file of which nothing more is known than what is in it."
    on = f" on {markdown(lineage.data['name'])}" if lineage.data else ""
    return f"{markdown(str(lineage.model))}{on}, compressed with dwindle."


def _files(found: list[Lineage]) -> Iterator[str]:
    yield "## Files"
    rows = []
    for one in found:
        weights = one.manifest.encoding if one.manifest else ", ".join(one.contents.weights) if one.contents else ""
        times = one.manifest.dense.bytes / one.manifest.file.bytes if one.manifest else None
        smaller = f"{times:.1f}× smaller than dense" if times else ""
        rows.append([_name(one), f"{format_bytes(one.bytes)} ({one.bytes:,})", weights, smaller, sha256(one.path)])
    yield _table(["file", "installed", "weights", "", "SHA-256"], rows)
    for one in found:
        if one.contents:
            sides = [", ".join(map(str, side)) or "–" for side in (one.contents.inputs, one.contents.outputs)]
            yield f"{markdown(_name(one))}: takes {markdown(sides[0])}; gives {markdown(sides[1])}."


def _quality(found: list[Lineage]) -> Iterator[str]:
    """What was measured of the files themselves, how they compare with the network, and its own score."""
    opened = found[0].checkpoint
    if opened is None:
        return
    yield "## Evaluation"
    metric = opened.metric
    rows = [[f"the network in PyTorch, {name}", f"{value:.2f}", "test split"] for name, value in opened.metrics.items()]
    rows += [_measured(one, row) for one in found for row in one.rows if row.accuracy]
    yield _table(["what", metric, "on"], rows)
    for one in found:
        parity = one.manifest.parity if one.manifest else None
        if parity and parity.relative is not None:
            most = f"{parity.relative:.1e} of the largest at most"
            text = f"its outputs differ from the network's by {most}, on {parity.samples} samples"
        elif parity:
            text = f"its outputs were not compared with the network's: {parity.not_run}"
        else:
            continue
        yield f"{markdown(_name(one))}: {markdown(text)}."


def _measured(lineage: Lineage, row: Row) -> list[str]:
    assert row.accuracy
    what = f"{_name(lineage)} in {row.runtime.place}"
    return [what, f"{row.accuracy.value:.2f}", f"{row.accuracy.n} samples of the {row.accuracy.split} split"]


def _rounds(lineage: Lineage) -> Iterator[str]:
    if lineage.checkpoint and len(lineage.checkpoint.history) > 1:
        yield "## How it was compressed"
        rows = [
            [str(one.index), f"{one.density:.1%}", f"{one.bytes:,}" if one.bytes else "–", f"{one.validation:.2f}"]
            for one in lineage.checkpoint.history
        ]
        yield _table(["round", "weights left", "bytes", "validation"], rows)


def _made(lineage: Lineage, name: str) -> Iterator[str]:
    if lineage.checkpoint:
        words = " ".join(single_line(word) for word in command_line(lineage.checkpoint.origin, name))
        yield "Made by:\n\n    " + words
        if fingerprint := lineage.data.get("fingerprint"):
            yield f"The data's fingerprint: {markdown(fingerprint)}"
    versions = ", ".join(f"{package} {version}" for package, version in sorted(lineage.versions.items()))
    yield f"Versions: {markdown(versions)}."


def _name(lineage: Lineage) -> str:
    return f"{lineage.manifest.target}/{lineage.path.name}" if lineage.manifest else lineage.path.name


def _table(titles: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    titles = list(titles)
    lines = [titles, ["---"] * len(titles), *([markdown(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
