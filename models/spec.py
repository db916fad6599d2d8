"""The options of the built-in task, image classification, and where data sets want others. Imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

from dwindle.errors import UsageError
from dwindle.models.schedule import Schedule, check
from dwindle.options import INTEGER, NUMBER, SHARE_OR_ZERO, SWITCH, option
from dwindle.preprocessing import Preprocessing, normalization

Optimizer = Literal["sgd", "adamw", "rmsprop"]

DATA = "what to train on"
TRAINING = "how to train"


@dataclass(frozen=True)
class TaskSpec:
    """The options of the built-in task. The optimizer's defaults are those of Renda et al. 2020 for CIFAR.

        >>> TaskSpec("fashion-mnist", epochs=30, schedule="cosine", augment=0.5)

    The help of each option says what it means. `make_task` fills in what a data set wants. Raises UsageError for a
    value out of range.
    """

    data: str = option(
        help="The data set: digits, fashion-mnist, cifar10, cifar100, a folder with a folder of images per class (or "
        "with images alone, for the `method` calibrate), segmentation:FOLDER, sound:FOLDER, text:FILE.csv, "
        "hf:DATASET[:CONFIG] of Hugging Face, webdataset:FOLDER of tar files, or package.module:factory, a function of "
        "yours that returns data sets of torch by split (train, val, test).",
        metavar="DATA",
        group=DATA,
        unset="none; give this or `task`",
    )
    data_root: str | None = option(
        None,
        help="The directory that holds the data set's files.",
        metavar="DIR",
        group=DATA,
        unset="the one in the environment variable DWINDLE_DATA, else the downloads'",
    )
    image_size: int | None = option(
        None,
        kind=INTEGER,
        help="The height and width in pixels to which images are cropped and scaled.",
        metavar="PIXELS",
        group=DATA,
        unset="their own size, which must be one",
    )
    skip_broken: bool = option(
        False,
        kind=SWITCH,
        help="Leave out images that can't be decoded, and say how many.",
        group=DATA,
    )
    normalize: str | None = option(
        None,
        help="How pixels from 0 to 1 are normalised: imagenet, data (by the training split's own mean and deviation), "
        "0-1 (not at all), or MEAN/STD such as 0.5/0.25, each one number or one per channel.",
        metavar="HOW",
        group=DATA,
        unset="as trained weights of torchvision, timm or transformers were; else data",
    )
    preprocessing: Preprocessing | None = None
    """How the network's weights want images, where its source says so; `normalize` and `image_size` come before it."""
    fingerprint: str | None = None
    """SHA-256 of the data, once it has been seen: other data under the same name is refused."""
    tokenizer: str | None = option(
        None,
        help="The folder or repository of the texts' tokenizer.",
        metavar="NAME",
        group=DATA,
        unset="that of an hf: model",
    )
    max_length: int = option(
        128,
        kind=INTEGER,
        help="The number of tokens of a text.",
        metavar="TOKENS",
        group=DATA,
    )
    epochs: int = option(
        182,
        kind=INTEGER,
        help="The number of epochs of the dense training, and of each retraining with its whole schedule.",
        group=TRAINING,
        unset="the data set's own, else 182",
    )
    batch_size: int = option(
        128,
        kind=INTEGER,
        help="Samples in an optimizer step.",
        group=TRAINING,
        unset="the data set's own, else 128",
    )
    lr: float = option(
        0.1,
        kind=NUMBER,
        help="The schedule's highest learning rate.",
        metavar="RATE",
        group=TRAINING,
        unset="the recipe's, else 0.1",
    )
    optimizer: Optimizer = option(  # noqa: RUF009  # it makes a field
        "sgd",
        help="The optimizer: sgd, adamw or rmsprop.",
        metavar="NAME",
        group=TRAINING,
        unset="the recipe's, else sgd",
    )
    momentum: float = option(0.9, kind=NUMBER, help="The momentum of SGD and of RMSprop.", metavar="M", group=TRAINING)
    nesterov: bool = option(False, kind=SWITCH, help="Use Nesterov's form of SGD's momentum.", group=TRAINING)
    weight_decay: float = option(
        2e-4,
        kind=NUMBER,
        help="The weight decay, on every parameter, biases and batch norm's included.",
        metavar="DECAY",
        group=TRAINING,
        unset="the recipe's, else 0.0002",
    )
    schedule: Schedule = option(  # noqa: RUF009  # it makes a field
        "step",
        help="How the learning rate falls: step (divided by ten at one half and three quarters, as in Renda et al. "
        "2020 on CIFAR), imagenet (divided by ten at 30/90, 60/90 and 80/90) or cosine.",
        metavar="NAME",
        group=TRAINING,
        unset="the recipe's or the data set's own, else step",
    )
    warmup: float = option(
        0.0,
        kind=NUMBER,
        help="The fraction of the schedule over which the learning rate climbs linearly to its peak.",
        metavar="FRACTION",
        group=TRAINING,
        unset="the recipe's or the data set's own, else 0",
    )
    crop: int = option(
        4,
        kind=INTEGER,
        help="The most pixels by which a training sample is shifted at random; 0 for no shift.",
        metavar="PIXELS",
        group=TRAINING,
        unset="the data set's own, else 4",
    )
    flip: bool = option(
        True,
        kind=SWITCH,
        help="Mirror half of the training samples. Turn it off for letters and road signs.",
        group=TRAINING,
        unset="the data set's own, else on",
    )
    augment: float = option(
        1.0,
        kind=SHARE_OR_ZERO,
        help="The share of the schedule over which training samples are shifted and mirrored; for the rest of it they "
        "are shown as they are (He et al. 2019, Data Augmentation Revisited).",
        group=TRAINING,
        unset="the recipe's, else 100%",
    )
    ema: float | None = option(
        None,
        kind=NUMBER,
        help="The decay, such as 0.999, of a running average of the weights that replaces them at each training's end.",
        metavar="DECAY",
        group=TRAINING,
        unset="no average",
    )
    """The average is what is judged, saved, pruned and trained further; the momentum stays that of the steps."""
    metric: str | None = option(
        None,
        help="What is judged by: accuracy, balanced-accuracy, f1, mean-iou, or, of samples with several labels, "
        "mean-average-precision.",
        metavar="NAME",
        group=DATA,
        unset="the first that suits the data",
    )
    class_weights: bool = option(
        False,
        kind=SWITCH,
        help="Weight each class's loss by the inverse of its share of samples.",
        group=TRAINING,
    )
    label_smoothing: float = 0.0
    """The share of each label that is spread over all classes."""
    clip: float | None = None
    """The greatest norm of a step's gradients, to which longer ones are scaled down; None: no limit."""
    mixup: float = 0.0
    """Each sample is mixed with another one; the share is drawn from a Beta distribution of this alpha. 0: off."""
    cutmix: float = 0.0
    """A rectangle of another sample is pasted into each; its share is drawn as that of `mixup`. With both, each batch
    has one of the two."""
    photographs: bool = option(
        False,
        kind=SWITCH,
        help="Train on random parts of the images, decoded afresh for every epoch, and not on shifted images.",
        group=TRAINING,
        unset="on where most images are 64 pixels across or more",
    )
    area: float = 0.35
    """Of photographs: the least share of an image that a training sample shows."""
    trivial: bool = False
    """Of photographs: whether a random operation of TrivialAugment changes each training sample."""
    erase: float = 0.0
    """Of photographs: the share of training samples of which a random rectangle is erased."""
    workers: int | None = None
    """Of photographs: how many processes decode; 0: none but this one. The result is the same with any number, and
    checkpoints do not record it. None: one for every two cores."""
    compile: bool = option(
        False,
        kind=SWITCH,
        help="Train with kernels made by torch.compile, which takes a minute or more for each new width of the network "
        "and pays only where trainings are long.",
        group=TRAINING,
    )
    record: bool = option(
        True,
        kind=SWITCH,
        help="On a GPU, record one training step as a CUDA graph and replay it. Turn it off for a network whose "
        "forward decides anything in Python, such as which layers to skip.",
        group=TRAINING,
    )
    seed: int = 0
    """The seed of the order of samples, their augmentation and dropout, but not of the initial weights. On the command
    line it is that of the request."""

    def __post_init__(self) -> None:
        check(self.schedule, self.warmup)
        if self.normalize is not None:
            normalization(self.normalize)
        for name, fine, wanted in (
            ("epochs", self.epochs >= 0, "0 or more"),
            ("batch_size", self.batch_size >= 1, "1 or more"),
            ("image_size", self.image_size is None or self.image_size >= 1, "1 pixel or more"),
            ("max_length", self.max_length >= 1, "1 or more"),
            ("lr", 0 < self.lr < math.inf, "above 0, and finite"),
            ("momentum", 0 <= self.momentum < 1, "from 0 up to, not including, 1"),
            ("nesterov", self.momentum > 0 or not self.nesterov, "off without momentum"),
            ("weight_decay", self.weight_decay >= 0, "0 or more"),
            ("crop", self.crop >= 0, "0 or more"),
            ("augment", 0 <= self.augment <= 1, "from 0 to 1"),
            ("optimizer", self.optimizer in get_args(Optimizer), " or ".join(get_args(Optimizer))),
            ("label_smoothing", 0 <= self.label_smoothing < 1, "from 0 up to, not including, 1"),
            ("clip", self.clip is None or 0 < self.clip < math.inf, "above 0"),
            ("mixup", 0 <= self.mixup < math.inf, "0 or more"),
            ("cutmix", 0 <= self.cutmix < math.inf, "0 or more"),
            ("area", 0 < self.area <= 1, "above 0, up to 1"),
            ("trivial", self.photographs or not self.trivial, "off without photographs"),
            ("erase", self.photographs or not self.erase, "0 without photographs"),
            ("erase", 0 <= self.erase <= 1, "from 0 to 1"),
            ("workers", self.workers is None or self.workers >= 0, "0 or more"),
            ("ema", self.ema is None or 0 < self.ema < 1, "between 0 and 1, such as 0.999"),
        ):
            if not fine:
                raise UsageError(
                    f"`{name}` is {getattr(self, name)}: it must be {wanted}", code="out-of-range", option=name
                )


DATA_SET_OPTIONS: dict[str, dict[str, Any]] = {
    "digits": {
        "epochs": 20,
        "batch_size": 64,
        "lr": 0.1,
        "schedule": "cosine",
        "warmup": 0.1,
        "crop": 1,
        "flip": False,
    },
    "fashion-mnist": {"epochs": 10, "schedule": "cosine", "warmup": 0.1, "crop": 2},
}
"""The options of a data set that differ from TaskSpec's own defaults."""

NEWER = (
    *("augment", "optimizer", "label_smoothing", "clip", "mixup", "cutmix"),
    *("photographs", "area", "trivial", "erase", "normalize", "preprocessing"),
    *("metric", "class_weights", "tokenizer", "max_length", "skip_broken"),
)
"""Options that a checkpoint records only where they differ from the default: runs begun before there were these go
on."""
