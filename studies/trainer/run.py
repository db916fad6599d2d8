"""How fast the built-in task trains, against the loop most people would write. Side by side in one process.

    python studies/trainer/run.py            # both thread counts; writes results.json and results.md beside itself

ResNet-20 at 20% density on Fashion-MNIST, batches of 128. The plain loop: float32, a DataLoader, torchvision's
transforms on one PIL image after another, masks by torch.nn.utils.prune. The contenders take turns, a few steps
each; the figures are medians over the turns of the ratio to the plain loop's turn beside it, with quartiles.
CPU time is the process's own, all threads; wall time is for a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import prune
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from dwindle.compress.macs import macs
from dwindle.compress.masks import mask_applier, prunable
from dwindle.models.classify import ImageClassification, TaskSpec
from dwindle.models.data import Splits, Subset
from dwindle.models.datasets import load
from dwindle.models.precision import bf16_gains
from dwindle.models.zoo import resnet20

HERE = Path(__file__).parent
BATCH, DENSITY, CROP = 128, 0.2, 2
Block = Callable[[], None]


class Images(Dataset[tuple[Tensor, int]]):
    """What torchvision.datasets.FashionMNIST does with the same bytes."""

    def __init__(self, data: Subset) -> None:
        self.images, self.labels = data.images[:, 0].numpy(), data.labels.tolist()
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(28, padding=CROP),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize((0.2860,), (0.3530,)),
            ]
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), self.labels[index]


def network() -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    model = resnet20(in_channels=1)
    return model, {name: torch.rand_like(weight) < DENSITY for name, weight in prunable(model).items()}


def plain(splits: Splits) -> Block:
    model, masks = network()
    for name, mask in masks.items():
        layer, _, weight = name.rpartition(".")
        prune.custom_from_mask(model.get_submodule(layer), weight, mask)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
    loader = DataLoader(Images(splits.train), BATCH, shuffle=True, drop_last=True)
    model.train()

    def block() -> None:
        for images, labels in loader:
            loss = functional.cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            loss.item()

    return block


def ours(splits: Splits, masking: list[float], *, bf16: bool | None = None, compiled: bool = False) -> Block:
    """`masking` takes the CPU seconds of each re-application of the masks."""
    model, masks = network()
    spec = TaskSpec("fashion-mnist", epochs=1, batch_size=BATCH, crop=CROP, compile=compiled)
    task, hold = ImageClassification(spec, splits), mask_applier(model, masks)

    def on_step(_: float) -> None:
        began = time.process_time()
        hold()
        masking.append(time.process_time() - began)

    def block() -> None:
        os.environ["DWINDLE_BF16"] = {None: "", True: "1", False: "0"}[bf16]
        task.fit(model, start=0.0, on_step=on_step)

    return block


def timed(block: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    block()
    return time.process_time() - cpu, time.perf_counter() - wall


def quartiles(values: list[float]) -> list[float]:
    return [round(value, 4) for value in statistics.quantiles(values, n=4)]


def matmul_rate(dtype: torch.dtype, size: int = 1024) -> float:
    """GFLOP/s of this machine's best case: what no convolution exceeds."""
    a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
    seconds = [timed(lambda: torch.mm(a, b))[0] for _ in range(15)]
    return 2e-9 * size**3 / min(seconds)


def measure(turns: int, steps: int, compiled: bool) -> dict[str, Any]:
    whole = load("fashion-mnist")
    splits = replace(whole, train=whole.train[torch.arange(BATCH * steps)])
    masking: list[float] = []
    contenders = {"plain": plain(splits), "ours": ours(splits, masking), "ours, float32": ours(splits, [], bf16=False)}
    if compiled:
        contenders["ours, compiled"] = ours(splits, [], compiled=True)
    for block in contenders.values():  # the first turn allocates and compiles
        block()
    masking.clear()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for _ in range(turns):
        for name, block in contenders.items():
            times[name].append(timed(block))
    images = BATCH * steps
    result: dict[str, Any] = {"threads": torch.get_num_threads(), "contenders": {}}
    for name, taken in times.items():
        pairs = list(zip(times["plain"], taken, strict=True))
        result["contenders"][name] = {
            "ms_per_step_cpu": quartiles([1e3 * cpu / steps for cpu, _ in taken]),
            "images_per_cpu_second": quartiles([images / cpu for cpu, _ in taken]),
            "images_per_wall_second": quartiles([images / wall for _, wall in taken]),
            "times_plain_cpu": quartiles([base[0] / own[0] for base, own in pairs]),
            "times_plain_wall": quartiles([base[1] / own[1] for base, own in pairs]),
        }
    own_cpu = sum(cpu for cpu, _ in times["ours"])
    result["masking_share"] = round(sum(masking) / own_cpu, 5)
    loader = DataLoader(Images(splits.train), BATCH, shuffle=True, drop_last=True)
    result["plain_input_ms_per_step"] = round(1e3 * timed(lambda: [None for _ in loader])[0] / steps, 2)
    task = ImageClassification(TaskSpec("fashion-mnist", batch_size=BATCH, crop=CROP), splits)
    own_input = timed(
        lambda: [task._normalized(task._batches.at(0, i).images, torch.device("cpu")) for i in range(steps)]
    )
    result["ours_input_ms_per_step"] = round(1e3 * own_input[0] / steps, 2)
    flops = 3 * 2 * BATCH * sum(macs(network()[0], (torch.zeros(1, 1, 28, 28),)).values())
    result["gflop_per_step"] = round(flops * 1e-9, 2)
    result["matmul_gflops"] = {str(d)[6:]: round(matmul_rate(d), 1) for d in (torch.float32, torch.bfloat16)}
    os.environ["DWINDLE_BF16"] = ""
    result["bf16"] = bf16_gains(torch.device("cpu"))
    return result


def table(document: dict[str, Any]) -> str:
    lines = [
        "# The trainer against a plain loop",
        "",
        f"`{document['command']}` · {document['machine']} · torch {document['torch']} · load average "
        f"{document['load_average']} on {document['cores']} cores",
        "",
        "| threads | contender | CPU ms a step | images per CPU second | per second | × plain, CPU | × plain, wall |",
        "|---:|---|---:|---:|---:|---:|---:|",
    ]
    notes = []
    for run in document["runs"]:
        for name, found in run["contenders"].items():
            low, middle, high = found["times_plain_cpu"]
            wall_low, wall, wall_high = found["times_plain_wall"]
            lines.append(
                f"| {run['threads']} | {name} | {found['ms_per_step_cpu'][1]:.0f} "
                f"| {found['images_per_cpu_second'][1]:.0f} | {found['images_per_wall_second'][1]:.0f} "
                f"| {middle:.2f} ({low:.2f} to {high:.2f}) | {wall:.2f} ({wall_low:.2f} to {wall_high:.2f}) |"
            )
        if run["threads"] == 1:
            rates = run["matmul_gflops"]
            floor = {kind: 1e3 * run["gflop_per_step"] / rate for kind, rate in rates.items()}
            notes += [
                f"- Masks: {100 * run['masking_share']:.2f}% of a step.",
                f"- Loading and augmenting a batch: {run['plain_input_ms_per_step']:.1f} ms plain, "
                f"{run['ours_input_ms_per_step']:.1f} ms ours.",
                f"- The convolutions of a step are {run['gflop_per_step']:.1f} GFLOP. At the rate of this machine's "
                f"best matrix product ({rates['float32']:.0f} GFLOP/s in float32, {rates['bfloat16']:.0f} in bfloat16) "
                f"they would take {floor['float32']:.0f} and {floor['bfloat16']:.0f} ms: the floor under any trainer. "
                f"Three times the plain loop would be {run['contenders']['plain']['ms_per_step_cpu'][1] / 3:.0f} ms.",
            ]
    return "\n".join([*lines, "", *notes, ""])


def machine() -> str:
    cpuinfo = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return name[1] if name else platform.processor()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--turns", type=int, default=12)
    options.add_argument("--steps", type=int, default=6)
    options.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    options.add_argument("--without-compile", action="store_true", help="leave out torch.compile, which takes minutes")
    options.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    chosen = options.parse_args()
    if chosen.one:
        torch.set_num_threads(chosen.threads[0])
        print(json.dumps(measure(chosen.turns, chosen.steps, not chosen.without_compile)))
        return
    load_average, runs = os.getloadavg(), []
    for threads in chosen.threads:
        # A process each: how many threads OpenMP starts is settled once.
        command = [sys.executable, __file__, "--one", "--threads", str(threads)]
        command += ["--turns", str(chosen.turns), "--steps", str(chosen.steps)]
        command += ["--without-compile"] if chosen.without_compile else []
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        runs.append(json.loads(ran.stdout.splitlines()[-1]))
    document = {
        "command": " ".join(["python studies/trainer/run.py", *sys.argv[1:]]),
        "machine": machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "load_average": round(load_average[0], 1),
        "runs": runs,
    }
    (HERE / "results.json").write_text(json.dumps(document, indent=2) + "\n")
    (HERE / "results.md").write_text(table(document))
    print(table(document))


if __name__ == "__main__":
    main()
