"""What a user asks of `compress` and `plan`, as plain data, and as words of the command line.

`dwindle.compress.resolve` checks it. Nothing heavy is imported here.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

from dwindle.errors import UsageError
from dwindle.models.spec import DATA, TaskSpec
from dwindle.options import (
    INTEGER,
    MACS,
    MILLISECONDS,
    NAMES,
    NUMBER,
    PATTERNS,
    SHARE,
    SHARE_OR_ZERO,
    SIZE,
    SWITCH,
    changed,
    given,
    option,
    words,
)
from dwindle.registry import unknown_name

if TYPE_CHECKING:
    from torch import nn

    from dwindle.task import Task, TaskWithoutLabels

BUDGET = "budget (all that are given must hold)"
PRUNING = "pruning"


@dataclass(frozen=True)
class Request:
    """Options of `compress` and `plan`; the help of each says what it means.

        >>> Request("zoo:resnet8", task="digits", size="25KB")
        >>> Request("zoo:resnet20", task={"data": "fashion-mnist", "epochs": 30}, macs="50%", recipe="best")
        >>> Request(Net(), task=Loop(), density=0.1)

    Nothing is checked here: `resolve` raises UsageError for what makes no sense, and so do `compress` and `plan`.
    """

    model: str | nn.Module = option(  # noqa: RUF009  # it makes a field
        positional=True,
        metavar="MODEL",
        recorded=False,
        help="The network to compress: zoo:NAME such as zoo:resnet20, torchvision:NAME, timm:NAME, hf:REPOSITORY or "
        "hf:FOLDER of transformers, or package.module:factory, a function of yours that returns a torch.nn.Module.",
    )
    task: Mapping[str, Any] | str | Task | TaskWithoutLabels = option(  # noqa: RUF009  # it makes a field
        group=DATA,
        metavar="FACTORY",
        recorded=False,
        help="Your own training instead of a data set: package.module:factory, a function of yours that returns an "
        "object with fit, evaluate and example_inputs; for `method` calibrate inputs and example_inputs are enough.",
        unset="image classification on `data`",
    )
    """In Python: an object that has the methods of `dwindle.Task`; a data set for the built-in image classification; or
    the options of `dwindle.models.make_task`, such as `{"data": "digits", "epochs": 20}` or
    `{"task": "package.module:factory"}`."""
    target: str = option(
        "onnx",
        flag="for",
        metavar="TARGET",
        group=BUDGET,
        help="The export target whose file `size` is counted on and whose rounding the accuracy is judged with: onnx, "
        "coreml, executorch, executorch-coreml, litert, mnn or pytorch.",
    )
    targets: tuple[str, ...] = option(
        (),
        kind=NAMES,
        group=BUDGET,
        recorded=False,
        help="Other export targets that the network will be exported to, comma-separated: it is rehearsed for them "
        "too (see `rehearsal`), and dwindle plan counts their files.",
        unset="that of `target` alone",
    )
    precision: str | None = option(
        None,
        metavar="PRECISION",
        group=BUDGET,
        help="What the file that `size` counts stores weights in: fp32, fp16, int8, int4, palette4, palette3, "
        "palette2, palette1 or w8a8; or mixed, which chooses bits and density of each layer for `size`. A plan takes "
        "auto too, and says what each would take and lose.",
        unset="the recipe's for `size`, else the target's own",
    )
    size: int | str | None = option(
        None,
        kind=SIZE,
        group=BUDGET,
        help="The budget in bytes of the file that will ship, such as 500KB, counted by its target's own packer.",
        unset="no limit",
    )
    density: float | None = option(
        None,
        kind=SHARE,
        group=BUDGET,
        help="The budget as the share of the prunable weights that survives, such as 10%.",
        unset="no limit",
    )
    macs: float | str | None = option(
        None,
        kind=MACS,
        group=BUDGET,
        help="The budget in multiply-accumulates of one inference, as a share of the dense network's such as 50% or a "
        "number such as 150M.",
        unset="no limit",
    )
    cost: float | str | None = option(
        None,
        kind=MACS,
        metavar="COST",
        group=BUDGET,
        help="The budget in ARM64 instructions of one inference of the file for `target`, met by removing channels, as "
        "a share of the dense network's such as 60% or a number such as 40M. Each layer is counted under emulation at "
        "a few widths, once: dwindle doctor --setup arm64 prepares that.",
        unset="no limit",
    )
    latency: float | str | None = option(
        None,
        kind=MILLISECONDS,
        group=BUDGET,
        help="The budget in milliseconds of one inference of the file for `target`, as predicted from the profile of a "
        "device (see `on`), such as 8ms; met by removing channels.",
        unset="no limit",
    )
    on: str | None = option(
        None,
        metavar="WHERE",
        group=BUDGET,
        help="What `latency` is predicted for: a file that dwindle profile wrote, cortex-a76 (LiteRT on a phone) or "
        "x86 (ONNX on a Xeon), which come with dwindle, or a device to profile first: host or ssh://pi@board.",
        unset="none",
    )
    max_drop: float | None = option(
        None,
        kind=NUMBER,
        metavar="POINTS",
        group=BUDGET,
        help="Instead of a budget, where the data has labels: shrink as far as the validation metric stays within this "
        "many points of the dense network's.",
        unset="a budget is given instead",
    )
    max_change: float | None = option(
        None,
        kind=SHARE,
        group=BUDGET,
        help="Instead of a budget, where data has no labels: shrink as long as at most this share of answers changes: "
        "of top classes, else of the outputs' root mean square.",
        unset="a budget is given instead",
    )
    granularity: str = option(
        "auto",
        metavar="NAME",
        group=PRUNING,
        help="What is removed as one: channel, unstructured (single weights), a block such as 4x1 (4 output by 1 input "
        "channels), a pattern such as 2:4, or channel+unstructured: channels down to `macs`, then weights down to "
        "`size` or `density`, or both within `max_drop`; auto is what makes the file smaller on the target, and fast "
        "what makes its inference faster.",
    )
    align: int = option(
        8,
        kind=INTEGER,
        group=PRUNING,
        help="When channels are removed, the widths of layers stay multiples of this number: 16 suits onnxruntime on "
        "x86, and 1 allows any width.",
    )
    layer_floor: float = option(
        0.0,
        kind=SHARE_OR_ZERO,
        group=PRUNING,
        help="When channels are removed, the share of its channels that every layer keeps.",
    )
    layer_share: tuple[str, ...] = option(
        (),
        kind=PATTERNS,
        metavar="PATTERN=SHARE",
        group=PRUNING,
        help="The share of weights or channels of some layers, as 'layer4.*=30%'.",
    )
    inexact_cuts: bool = option(
        False,
        kind=SWITCH,
        group=PRUNING,
        help="Also remove channels that change what the others compute, such as the width that a LayerNorm averages "
        "over; what each cut changes is said.",
    )
    recipe: str | None = option(
        None,
        metavar="NAME",
        group=PRUNING,
        help="A set of options under one name, paper, best, photo or finetune-photo: optimizer, schedule, learning "
        "rate, augmentation, score and recalibration. Options given beside it take precedence.",
        unset="photo for a folder of photographs, finetune-photo where its network comes trained; else the data set's "
        "own schedule, and magnitude pruning",
    )
    score: str | None = option(
        None,
        metavar="NAME",
        group=PRUNING,
        help="How weights are ranked for pruning: magnitude, layerwise, lamp, or a score of another package.",
        unset="lamp where `pretrained` or `new_head` is given, else the recipe's, else magnitude",
    )
    include: tuple[str, ...] = option(
        ("*",),
        kind=PATTERNS,
        group=PRUNING,
        help="Shell patterns of the names of the layers that may be pruned.",
    )
    exclude: tuple[str, ...] = option(
        (),
        kind=PATTERNS,
        group=PRUNING,
        help="Shell patterns of names of layers that may not be pruned.",
    )
    method: str = option(
        "lr-rewind",
        metavar="NAME",
        group=PRUNING,
        help="How a pruned network is retrained: lr-rewind, weight-rewind, lottery-ticket or finetune; or amc, which "
        "first searches for the density of each layer. Without training: calibrate solves the survivors of `weights` "
        "by least squares, and keep takes their zeros as they are.",
    )
    rewind_to: float | None = option(
        None,
        kind=NUMBER,
        metavar="FRACTION",
        group=PRUNING,
        help="The point of the schedule that each retraining restarts from, as a fraction of it.",
        unset="the method's own, which is 0.1 for weight-rewind and 0 for the others",
    )
    recalibrate: bool | None = option(
        None,
        kind=SWITCH,
        group=PRUNING,
        help="Compute batch norm's statistics anew at the end of each training, from inputs as training shows them.",
        unset="the recipe's, else off",
    )
    gradual: float | None = option(
        None,
        kind=SHARE_OR_ZERO,
        group=PRUNING,
        help="The share of each retraining over which weights are pruned.",
        unset="the recipe's, else 0%",
    )
    qat: float | None = option(
        None,
        kind=SHARE_OR_ZERO,
        group=PRUNING,
        bare=0.3,
        help="The last share of each retraining that trains through the rounding; bare, 30%.",
        unset="the recipe's, else 0%",
    )
    prune_per_round: float | None = option(
        None,
        kind=SHARE,
        group=PRUNING,
        help="The share of the surviving weights that each round removes.",
        unset="the recipe's, else 20%",
    )
    rounds: int | None = option(
        None,
        kind=INTEGER,
        group=PRUNING,
        help="A fixed number of rounds instead of a fixed share per round; 1 prunes in one shot.",
        unset="as many as `prune_per_round` takes",
    )
    episodes: int | None = option(
        None,
        kind=INTEGER,
        group=PRUNING,
        help="How many allocations the agent of `method` amc tries.",
        unset="150",
    )
    calib_samples: int | None = option(
        None,
        kind=INTEGER,
        group=PRUNING,
        help="How many samples, without labels, `method` calibrate uses.",
        unset="1024",
    )
    distill: int = option(
        0,
        kind=INTEGER,
        metavar="PASSES",
        group=PRUNING,
        help="In how many passes over these samples, such as 20, the network is then taught the dense one's answers.",
        unset="none",
    )
    update: str | None = option(
        None,
        metavar="HOW",
        group=PRUNING,
        help="With least-squares, survivors are solved before they retrain.",
        unset="no",
    )
    rounding: str | None = option(
        None,
        metavar="HOW",
        group=PRUNING,
        help="How weights become codes of int8, int4 or a palette: nearest, or calibrated by the samples of `method` "
        "calibrate.",
        unset="nearest",
    )
    weights: str | None = option(
        None,
        metavar="FILE",
        group=DATA,
        help="Trained weights to prune without training them first: a file (safetensors, or a state dict that "
        "torch.load reads), or a checkpoint, whose dense network's they are.",
        unset="the dense network is trained here",
    )
    pretrained: bool = option(
        False,
        kind=SWITCH,
        group=DATA,
        help="Begin with the trained weights of the model's source, and train them further on the data, with a fresh "
        "head where classes differ. `method` calibrate prunes them as they are.",
    )
    new_head: bool = option(
        False,
        kind=SWITCH,
        group=DATA,
        help="Where `weights` are of a network with another number of classes, keep the model's own last layer, fresh, "
        "and train the network.",
    )
    keep_samples: int = option(
        0,
        kind=INTEGER,
        metavar="N",
        recorded=False,
        group=DATA,
        help="Keep this many inputs of the training and of the validation split in the checkpoint, without labels, so "
        "that exporting needs no data.",
    )
    train_dense: bool = option(
        False,
        kind=SWITCH,
        group=DATA,
        help="Train a network further that came trained: by `weights`, or by a factory whose network scores well above "
        "chance.",
    )
    expect_accuracy: float | None = option(
        None,
        kind=NUMBER,
        metavar="POINTS",
        recorded=False,
        group=DATA,
        help="The validation accuracy that `weights` are known to have; nothing is pruned where they are a point "
        "below.",
        unset="a warning near chance",
    )
    dynamic: tuple[str, ...] = option(
        (),
        kind=NAMES,
        metavar="SIZES",
        help="Sizes of inputs that vary in exported files: batch=1..8, tokens:1=1..128, image:2=96..256/32.",
    )
    seed: int = option(
        0,
        kind=INTEGER,
        help="The seed of the initial weights, of the order of samples and of everything else that is random.",
    )
    rehearsal: bool = option(
        True,
        kind=SWITCH,
        recorded=False,
        help="Before anything is trained, export the untrained network to `target` and `targets`, compare the files "
        "with it and delete them, so that what a target can't take is known at once.",
    )
    save_every: float = option(
        5.0,
        kind=NUMBER,
        metavar="MINUTES",
        recorded=False,
        help="Minutes between saves within a round, half a minute at most where layers are solved instead of trained; "
        "resuming may change it.",
    )


def request_of(arguments: argparse.Namespace) -> Request:
    """Makes the request of a parsed command line, whose options are those of Request and TaskSpec.

    Raises UsageError where it doesn't say, or says twice, what to train on.
    """
    values, task = given(arguments, Request), given(arguments, TaskSpec)
    factory = values.pop("task", None)
    if (factory is None) == ("data" not in task):
        raise UsageError(
            "say what to train on: give `data` or `task` (one of them)", code="missing-option", option="data"
        )
    return Request(task=task if factory is None else {"task": factory, **task}, **values)


def request_for(model: nn.Module | Request | str, options: Mapping[str, Any]) -> Request:
    """The request for a network with these options, which are fields of Request and of TaskSpec.

        >>> request_for("zoo:resnet8", {"data": "digits", "epochs": 3, "size": "25KB"})

    model: also a request, of which `options` replace fields. Raises UsageError for an option that there isn't, and
    where they don't say, or say twice, what to train on.
    """
    own, training = ({each.name for each in fields(kind)} for kind in (Request, TaskSpec))
    for name in options:
        if name not in own | training:
            raise unknown_name("option", name, [*own, *training], option=name)
    asked = {name: value for name, value in options.items() if name in own}
    trained = {name: value for name, value in options.items() if name not in own}
    if not isinstance(trained.get("data", ""), str):
        from dwindle.models.supervised import Supervised

        if asked.get("task") is not None:
            raise UsageError("there are `data` and a `task`: leave one of them out", code="conflict", option="data")
        asked["task"], trained = Supervised(trained.pop("data"), **{"seed": asked.get("seed", 0), **trained}), {}
    task = asked.pop("task", model.task if isinstance(model, Request) and trained.keys() - {"data"} else None)
    if trained:
        own_task = {"data": task} if isinstance(task, str) else {} if task is None else task
        if not isinstance(own_task, Mapping) or "data" in own_task.keys() & trained.keys():
            raise UsageError(
                f"`{next(iter(trained))}` is of the built-in training, and there is a `task`: leave one of them out",
                code="conflict",
                option=next(iter(trained)),
            )
        task = {**own_task, **trained}
    if task is not None:
        asked["task"] = task
    if isinstance(model, Request):
        return replace(model, **asked)
    if task is None:
        raise UsageError("say what to train on: give `data` or `task`", code="missing-option", option="data")
    return Request(model, **asked)


def request_words(request: Request) -> list[list[str]]:
    """What to write after `dwindle compress` to make this request: the model, then an option with its values per entry.

    Options at their defaults are left out: `request_of(parse(request_words(request))) == request`.
    """
    task = {"data": request.task} if isinstance(request.task, str) else request.task
    assert isinstance(task, Mapping), "an object can't be written on a command line"
    model, *rest = words({**changed(request), "model": request.model, "task": task.get("task")}, Request)
    return [model, *words(task, TaskSpec), *rest]
