"""The network as a target's file computes it, for a task to judge before there is an export."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwindle.errors import UsageError
from dwindle.export.coreml.interface import Interface, Normalization
from dwindle.export.fold import deployable
from dwindle.export.quantize import as_shipped
from dwindle.export.target import Calibrated, Target

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dwindle.models.checked_task import CheckedTask

SAMPLES = 256
"""To calibrate on."""


def calibrated(
    target: Target, task: CheckedTask, samples: int | None = None, say: Callable[[str], None] = lambda line: None
) -> Target:
    """The target, calibrated on up to `samples` (SAMPLES) of the task's training split where its precision takes that.

    A task without `inputs` has only its example. `say` hears of it, and of the samples. Raises UsageError for a number
    below 1, and for samples from which no range of activations follows.
    """
    if samples is not None and samples < 1:
        raise UsageError(f"`calib_samples` is {samples}: give 1 or more", code="out-of-range", option="calib_samples")
    if not isinstance(target, Calibrated) or not target.calibrates:
        return target
    real = tuple(tensor.cpu().float() for tensor in task.inputs("train"))
    spread = tuple(_spread(tensor, samples or SAMPLES) for tensor in real)
    if task.has("inputs"):
        say(f"calibrated on {len(spread[0])} samples of the training split")
    else:
        say("calibrated on the example input alone, as the task has no `inputs`: its ranges may fit no other")
    return target.calibrated(spread)


def facing(
    target: Target,
    task: CheckedTask,
    image_input: bool,
    classes: str | None,
    say: Callable[[str], None] = lambda line: None,
) -> Target:
    """The target with an image input, normalised as the task's, and class labels, where it has such things.

    classes: a file with a label on each line, or "" for the names in the task's data; None: no labels. `say` hears
    where the target has neither. Raises UsageError where the task or the file doesn't give what was asked for.
    """
    if not image_input and classes is None:
        return target
    face: Callable[[Interface], Target] | None = getattr(target, "facing", None)
    if face is None:
        say("has no image inputs and no class labels: they were left out")
        return target
    image = None
    if image_input:
        if (moments := task.normalization) is None:
            raise UsageError("an image input takes the task's `normalization`, and it has none")
        image = Normalization(*(tuple(float(value) for value in moment) for moment in moments))
    return face(Interface(image, _labels(task, classes)))


def _labels(task: CheckedTask, classes: str | None) -> tuple[str, ...]:
    if classes is None:
        return ()
    if not classes:
        if (names := task.class_names) is None:
            raise UsageError("the task has no `class_names`: give `classes` a file with a label on each line")
        return names
    try:
        labels = tuple(line.strip() for line in Path(classes).read_text().splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the class labels in {classes} cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from error
    if not labels:
        raise UsageError(f"{classes} has no class labels: write one on each line")
    return labels


def as_file(target: Target, module: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """What a file of a network as it is trained computes, for batches of any size.

    The network with its weights rounded, or where the target rounds activations too, the file itself, run sample by
    sample. Raises as `deployable` and the target's `write` do.
    """
    if not isinstance(target, Calibrated) or not target.calibrates:
        return as_shipped(module, inputs, target.precision)
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name, f"net{target.suffix}")
    target.write(deployable(module, inputs), inputs, path, pack=True)

    network = running(target, path)
    network.folder = folder  # type: ignore[assignment]  # it is removed with the module
    return network


def shipper(target: Target, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], nn.Module]:
    """`as_file` for one network after the other. What it made of the weights seen last is kept: the network of the last
    round is judged on validation and then on test, and writing a file that rounds activations takes a calibration."""
    import torch

    seen: dict[str, Tensor] = {}
    made: nn.Module | None = None

    def ships(module: nn.Module) -> nn.Module:
        nonlocal made
        held = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
        if made is None or held.keys() != seen.keys() or not all(torch.equal(seen[name], held[name]) for name in held):
            made = as_file(target, module, inputs)
            seen.clear()
            seen.update({name: tensor.clone() for name, tensor in held.items()})
        return made

    return ships


def running(target: Target, path: Path) -> nn.Module:
    """A file as a module, run sample by sample by its target's runtime, for batches of any size."""
    from torch import from_numpy, nn

    class File(nn.Module):
        def forward(self, *batch: Tensor) -> Any:
            outputs = target.run(path, tuple(tensor.detach().cpu().float() for tensor in batch))
            return from_numpy(outputs).to(batch[0].device)

    return File()


def _spread(tensor: Tensor, samples: int) -> Tensor:
    import torch

    return tensor[torch.linspace(0, len(tensor) - 1, min(samples, len(tensor))).long()]
