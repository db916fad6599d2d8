"""The network as a target's file computes it, for a task to judge before there is an export."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dwindle.errors import UsageError, one_line
from dwindle.export.coreml.interface import Interface, Normalization
from dwindle.export.fold import deployable
from dwindle.export.target import Target
from dwindle.models.inputs import as_fed
from dwindle.models.layerwise.samples import spread
from dwindle.models.signature import Answering, Flat

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dwindle.models.checked_task import CheckedTask
    from dwindle.signature import Signature

SAMPLES = 256
"""How many samples a target is calibrated on, unless another number is asked for."""


def calibrated(
    target: Target, task: CheckedTask, samples: int | None = None, say: Callable[[str], None] = lambda line: None
) -> Target:
    """The target, calibrated on the task's training split if it `calibrates`, and else as it is.

    samples: at most how many are used; None: SAMPLES. A task without `inputs` has only its example input. say: called
    with a sentence about what was used. Raises UsageError for a number below 1, and for samples from which no range of
    activations follows.
    """
    if samples is not None and samples < 1:
        raise UsageError(f"`calib_samples` is {samples}: give 1 or more", code="out-of-range", option="calib_samples")
    if not target.calibrates:
        return target
    chosen = spread(tuple(as_fed(tensor) for tensor in task.inputs("train")), samples or SAMPLES)
    if task.has("inputs"):
        say(f"calibrated on {len(chosen[0])} samples of the training split")
    else:
        say("calibrated on the example input alone, as the task has no `inputs`: its ranges may fit no other")
    return target.calibrated(chosen)


def rounded(
    target: Target,
    task: CheckedTask,
    samples: int | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Target:
    """The target, whose codes are chosen by samples of the task's training split; as it is where it stores none.

    samples: at most how many are used; None: SAMPLES. say: called with a sentence about what was used. Raises
    UsageError for a task without `inputs`.
    """
    from dwindle.export.rounding import Calibrated

    if not target.has_codes:
        say(f"{target.precision} weights have no codes, which `rounding` calibrated could choose")
        return target
    if not task.has("inputs"):
        raise UsageError(
            "`rounding` calibrated needs real samples, and the task has no `inputs`: add them, or leave it out",
            code="missing-member",
            option="rounding",
            name="inputs",
        )
    chosen = spread(tuple(as_fed(tensor) for tensor in task.inputs("train")), samples or SAMPLES)
    say(f"codes are chosen by {len(chosen[0]):,} samples of the training split")
    return target.rounded_by(Calibrated(chosen))


def with_interface(
    target: Target,
    task: CheckedTask,
    image_input: bool,
    classes: str | None,
    say: Callable[[str], None] = lambda line: None,
) -> Target:
    """The target with an image input and class labels, if it `takes_interface`, and else as it is.

    image_input: whether its files take images, which they normalise as the task does. classes: the path of a file with
    a label on each line, or "" for the task's `class_names`; None: no labels. say: called with a sentence where the
    target takes neither. Raises UsageError where the task or the file lacks what is needed.
    """
    if not image_input and classes is None:
        return target
    if not target.takes_interface:
        if image_input:
            say("its files take no images: `image_input` was left out")
        if classes is not None:
            kept = "stand in its files' metadata alone" if target.holds_metadata else "were left out"
            say(f"class labels {kept}")
        return target
    image = None
    if image_input:
        if (moments := task.normalization) is None:
            raise UsageError(
                "an image input needs the task's `normalization`, and the task has none: add it, or leave out "
                "`image_input`",
                code="missing-member",
                option="image_input",
                name="normalization",
            )
        mean, std = (tuple(float(value) for value in moment) for moment in moments)
        image = Normalization(mean, std, bgr=bool((how := task.preprocessing) and how.colours == "BGR"))
    return target.with_interface(Interface(image, labels(task, classes)))


def labels(task: CheckedTask, classes: str | None) -> tuple[str, ...]:
    """The class labels that `classes`, as in `with_interface`, asks for; none where it is None."""
    if classes is None:
        return ()
    if not classes:
        if (names := task.class_names) is None:
            raise UsageError(
                "the task has no `class_names`: give `classes` a file with a label on each line",
                code="missing-member",
                option="classes",
                name="class_names",
            )
        return names
    try:
        labels = tuple(line.strip() for line in Path(classes).read_text(encoding="utf-8").splitlines() if line.strip())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"the class labels in {classes} cannot be read ({one_line(error)}): give a file with a label on each line",
            code="unreadable",
            option="classes",
            path=classes,
        ) from error
    if not labels:
        raise UsageError(
            f"{classes} has no class labels: write one on each line", code="empty", option="classes", path=classes
        )
    return labels


def as_file(target: Target, module: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """A network that computes what the target's file of `module` computes, for batches of any size.

    module: as it is trained. The result is the same network with its weights rounded; or, where the target rounds
    activations too, the file itself, run sample by sample. Raises as `deployable` and the target's `write` do.
    """
    if not target.rounds_activations:
        return module if target.precision == "fp32" else target.as_stored(deployable(module, inputs), activations=False)
    folder = tempfile.TemporaryDirectory()
    path = Path(folder.name, f"net{target.suffix}")
    target.write(deployable(module, inputs), inputs, path, pack=True)

    network = running(target, path, module.signature if isinstance(module, Flat) else None)
    network.folder = folder  # type: ignore[assignment]  # removed together with the module
    return network


def shipper(target: Target, inputs: tuple[Tensor, ...]) -> Callable[[nn.Module], nn.Module]:
    """A function that does what `as_file` does, and caches its last result.

    The network of the last round is judged on validation and then on test, with the same weights, and to write a file
    that rounds activations takes a calibration.
    """
    import torch

    last: dict[str, Tensor] = {}
    result: nn.Module | None = None

    def ships(module: nn.Module) -> nn.Module:
        nonlocal result
        state = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
        same = state.keys() == last.keys() and all(torch.equal(last[name], state[name]) for name in state)
        if result is None or not same:
            result = as_file(target, module, inputs)
            last.clear()
            last.update({name: tensor.clone() for name, tensor in state.items()})
        return result

    return ships


def running(target: Target, path: Path, signature: Signature | None = None) -> nn.Module:
    """A module that runs a file by its target's runtime, sample by sample, for batches of any size.

    signature: the network's, whose inputs the module takes and whose form its answers have; None where the network is
    flat as it is.
    """
    from torch import from_numpy

    def infer(batch: tuple[Tensor, ...]) -> list[Tensor]:
        return [from_numpy(output) for output in target.run(path, tuple(as_fed(tensor) for tensor in batch))]

    return Answering(infer, signature)
