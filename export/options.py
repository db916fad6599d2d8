"""The options of `export`, as plain data. Imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from dwindle.options import INTEGER, NAMES, NUMBER, SWITCH, option


@dataclass(frozen=True)
class ExportOptions:
    """How `export` writes the compressed network; the help of each option says what it means.

        >>> export("net.dwindle", ["coreml"], ExportOptions(precision="int8", min_os="iOS18"))

    Nothing is checked here: `export` raises UsageError for what makes no sense.
    """

    precision: str | None = option(
        None,
        metavar="PRECISION",
        help="What the files store weights in: fp32, fp16, int8, int4, palette4, palette3, palette2 or palette1, where "
        "the target has it; mixed, as compress chose it; w8a8, int8 that also computes in int8, with activations "
        "rounded; or auto, whatever gives the smallest file that loses at most `max_drop` points.",
        unset="what the checkpoint's budget was counted at on that target; on other targets what the weights were "
        "trained through, else their own",
    )
    max_drop: float | None = option(
        None,
        kind=NUMBER,
        metavar="POINTS",
        help="With `precision` auto, the points of validation that a file may lose against the dense network.",
        unset="none; auto requires it",
    )
    min_os: str | None = option(
        None,
        metavar="OS",
        help="The earliest system that must load Core ML files: iOS16, iOS17 or iOS18, which alone has sparse codes.",
        unset="the target's own",
    )
    min_runtime: str | None = option(
        None,
        metavar="NAME==VERSION",
        help="The oldest runtime that must load ONNX files: onnxruntime of 1.15 or later, or onnxruntime-web of "
        "1.17 or later, such as onnxruntime==1.15. What needs a later one is refused by the operator's name.",
        unset="onnxruntime==1.17",
    )
    calib_samples: int | None = option(
        None,
        kind=INTEGER,
        help="The number of training samples from which the ranges of activations are taken, for files that round "
        "activations too (`precision` w8a8), and by which `rounding` calibrated chooses codes.",
        unset="256",
    )
    keep_float: tuple[str, ...] = option(
        (),
        kind=NAMES,
        metavar="LAYERS",
        help="Layers that stay float in files that compute in int8 (`precision` w8a8), comma-separated, each the name "
        "of a layer or of a module around several; auto keeps those without whose rounding the "
        "outputs lose least, an eighth of all at most, and none where little is lost.",
        unset="all layers that have an int8 form compute in int8",
    )
    rounding: str | None = option(
        None,
        metavar="HOW",
        help="How weights become codes of int8, int4 or a palette: nearest takes the nearest code of each weight, and "
        "calibrated chooses a layer's codes together, by what they change of its outputs for training samples.",
        unset="what the checkpoint was made with, else nearest",
    )
    packing: str = option(
        "auto",
        metavar="HOW",
        help="How zeros are stored: auto packs them where the target can, and none writes a plain dense file for tools "
        "that read no packed one.",
    )
    unproven: bool = option(
        False,
        kind=SWITCH,
        help="Keep files whose outputs cannot be compared with the network's on this machine, such as Core ML files "
        "with an operator that only Core ML can run. Their manifests say so.",
    )
    compute: str | None = option(
        None,
        metavar="PRECISION",
        help="What Core ML and ONNX files compute in: fp16, which GPUs and NPUs are made for, or fp32. In fp16, "
        "operations whose values it does not hold on real inputs still compute in fp32, and inputs and outputs of ONNX "
        "files stay in it.",
        unset="fp16 for Core ML, fp32 for ONNX",
    )
    tolerance: float | None = option(
        None,
        kind=NUMBER,
        metavar="SHARE",
        help="How far outputs may be from the network's, as a share of the largest one. Where that is more than "
        "rounding explains, the manifest, show and the gate say so.",
        unset="what rounding explains at the file's precision",
    )
    dynamic: tuple[str, ...] = option(
        (),
        kind=NAMES,
        metavar="SIZES",
        help="Dimensions of inputs whose sizes may vary in exported files, comma-separated: batch, batch=1..8, or "
        "INPUT:DIMENSION=LEAST..MOST such as tokens:1=1..128 or image:2=96..256/32, whose sizes are 32 apart. Files "
        "are compared at both bounds and in the middle. none fixes every size.",
        unset="as dwindle compress was told",
    )
    data: str | None = option(
        None,
        metavar="DATA",
        help="The checkpoint's data, where it lies elsewhere now: a folder, or the factory that the checkpoint names, "
        "which is then run. It must be the same data.",
        unset="where it was, as seen from the checkpoint",
    )
    image_input: bool = option(
        False,
        kind=SWITCH,
        help="Let Core ML files take an image as their input, and normalise it as the task does.",
    )
    classes: str | None = option(
        None,
        metavar="FILE",
        bare="",
        help="Store class labels in the files: one on each line of FILE, or without FILE the names of the task's "
        "classes. Core ML files then answer with a class and with probabilities, made of logits by a softmax; ONNX and "
        "LiteRT files have the labels in their metadata.",
        unset="no labels",
    )
    author: str | None = option(
        None,
        metavar="NAME",
        help="Who made the network, for the metadata of ONNX, Core ML and LiteRT files.",
        unset="nobody is named",
    )
    license: str | None = option(
        None,
        metavar="TEXT",
        help="The network's license, such as Apache-2.0, for the metadata of ONNX, Core ML and LiteRT files.",
        unset="none is named",
    )
    model_version: str | None = option(
        None,
        metavar="VERSION",
        help="The network's version, for the metadata of ONNX, Core ML and LiteRT files.",
        unset="none is named",
    )
    description: str | None = option(
        None,
        metavar="TEXT",
        help="What the network is for, in a sentence, for the metadata of ONNX, Core ML and LiteRT files.",
        unset="none",
    )
    keeps_rejected: bool = True
    """Whether a file that fails parity is kept beside the exports, to be looked at; no option of the command line."""
