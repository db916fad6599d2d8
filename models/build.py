"""Builds models by name, fresh or from a checkpoint, and checks that they return logits."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dwindle.checkpoint import DOCUMENT
from dwindle.documents import parse
from dwindle.errors import CheckpointError, UsageError, one_line
from dwindle.models.copies import copied
from dwindle.models.factory import call_factory
from dwindle.models.trust import Trust, is_code, require_trust
from dwindle.models.zoo import ZOO
from dwindle.registry import unknown

if TYPE_CHECKING:
    from dwindle.checkpoint import Checkpoint


@dataclass(frozen=True)
class ModelSpec:
    """What is needed to build a network again.

    >>> spec = ModelSpec("zoo:resnet8", classes=10, input_shape=(1, 8, 8))
    >>> sum(weight.numel() for weight in dwindle.models.build.build(spec).parameters())
    77754
    """

    spec: str
    """`zoo:NAME`, `torchvision:NAME` or `package.module:factory`."""
    classes: int | None
    """How many logits the network outputs; None where the task isn't classification."""
    input_shape: tuple[int, ...]
    """The shape of one sample without its batch dimension: (channels, height, width)."""


def build(model: ModelSpec) -> nn.Module:
    """Builds the network with fresh weights, drawn from torch's global generator: seed that first.

    A factory is called with `num_classes=` and `in_channels=` where its signature names them.
    Raises UsageError for a name that leads nowhere, a factory that fails or a result that isn't a module.
    """
    source, _, name = model.spec.partition(":")
    if source in ("zoo", "torchvision"):
        if model.classes is None:
            raise UsageError(
                f"{model.spec} is a classifier and the task has no `classes`: add that, or give a `model` of your own",
                code="missing-member",
                option="model",
                name="classes",
            )
        make = _zoo if source == "zoo" else _torchvision
        return make(name, model.classes, model.input_shape[0])
    if ":" not in model.spec:
        hint = f"zoo:{source}" if source in ZOO else "zoo:NAME, torchvision:NAME or package.module:factory"
        raise UsageError(
            f"the `model` {model.spec!r} doesn't say where it comes from: write {hint}",
            code="unknown-name",
            option="model",
            name=model.spec,
        )
    offered = {"num_classes": model.classes, "in_channels": next(iter(model.input_shape), None)}
    known = {key: value for key, value in offered.items() if value is not None}
    built = call_factory(model.spec, "model", **known)
    if not isinstance(built, nn.Module):
        raise _bad_model(
            f"the factory {model.spec!r} returned a {type(built).__name__}: it must return a torch.nn.Module"
        )
    own = copied(built)  # a factory may hand out one module each time, which is trained by now
    if any(map(is_lazy, own.parameters())):
        with contextlib.suppress(Exception), torch.no_grad():  # `check_logits` says what is wrong with it
            own(torch.zeros(2, *model.input_shape))
    return own


def check_rebuilds(model: ModelSpec, built: nn.Module) -> None:
    """Checks that the factory of `built` makes such a network again, into which its weights can be loaded later.

    Raises UsageError naming a tensor where it doesn't. The random generator stays where it was.
    """
    if model.spec.partition(":")[0] in ("zoo", "torchvision"):
        return
    with torch.random.fork_rng(devices=[]):
        again = build(model)
    first, second = (
        {name: str(tuple(tensor.shape)) for name, tensor in one.state_dict().items() if isinstance(tensor, Tensor)}
        for one in (built, again)
    )
    for name in [*first, *second]:
        if (before := first.get(name, "not there")) != (after := second.get(name, "not there")):
            raise _bad_model(
                f"the model {model.spec!r} is a different network each time it is made ({name} is {before}, then "
                f"{after}): its factory must make the same architecture every time"
            )


def _zoo(name: str, classes: int, channels: int) -> nn.Module:
    if name not in ZOO:
        raise UsageError(unknown("zoo model", name, list(ZOO)))
    return ZOO[name](num_classes=classes, in_channels=channels)


def _torchvision(name: str, classes: int, channels: int) -> nn.Module:
    """Builds a torchvision classifier. Its input has three channels; `check_logits` says so where the data's has
    not."""
    from torchvision import models

    classifiers = models.list_models(module=models)
    if name not in classifiers:
        raise UsageError(unknown("torchvision model", name, classifiers))
    # These two return a tuple while training unless told not to.
    plain = {"aux_logits": False} if name in ("googlenet", "inception_v3") else {}
    network: nn.Module = models.get_model(name, weights=None, num_classes=classes, **plain)
    return network


def check_logits(module: nn.Module, inputs: tuple[Tensor, ...], classes: int | None) -> None:
    """Checks, on a copy, that the module turns a batch into a float tensor of shape (batch, classes).

    `inputs`: one sample as a batch of one. Without `classes`, any float tensor will do.
    Raises UsageError with both shapes where it doesn't.
    """
    shape = tuple(inputs[0].shape[1:])
    batch = tuple(torch.cat([tensor, tensor]) for tensor in inputs)
    name = type(module).__name__
    if any(is_lazy(parameter) for parameter in module.parameters()):
        raise _bad_model(
            f"the model {name} has lazy layers, which have no weights yet: call it once on a sample in its factory"
        )
    for training in (False, True):  # some networks answer with a tuple while training
        try:
            device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
            with torch.set_grad_enabled(training), torch.random.fork_rng(devices=[]):
                logits = copied(module).train(training)(*(tensor.to(device) for tensor in batch))
        except Exception as error:
            raise _bad_model(
                f"the model {name} can't take a sample of shape {shape}{_why(module, shape, error)}"
            ) from error
        if not isinstance(logits, Tensor):
            raise _bad_model(f"the model {name} returns a {type(logits).__name__}: it must return a tensor of logits")
        if not logits.is_floating_point():
            raise _bad_model(f"the model {name} returns {logits.dtype}: it must return a float tensor of logits")
        if training and not logits.requires_grad and any(weight.requires_grad for weight in module.parameters()):
            raise _bad_model(
                f"the model {name} can't be trained, as no gradient flows from its output to its weights: remove "
                "`torch.no_grad()` or `.detach()` from its forward"
            )
        if classes is not None and logits.shape != (2, classes):
            raise _bad_model(
                f"the model {name} returns shape {tuple(logits.shape)} for a batch of 2, and logits over {classes} "
                f"classes have shape (2, {classes}): give it as many outputs as the data has classes"
            )


def _why(module: nn.Module, shape: tuple[int, ...], error: Exception) -> str:
    convolution = next((part for part in module.modules() if isinstance(part, nn.Conv2d)), None)
    if convolution is not None and len(shape) == 3 and convolution.in_channels != shape[0]:
        wanted = convolution.in_channels
        return (
            f": its first convolution takes {wanted} channels and the data has {shape[0]}, so give a factory "
            f"that takes in_channels, a zoo: model, or data with {wanted} channels"
        )
    weight = next(module.parameters(), None)
    if weight is not None and weight.dtype in (torch.float64, torch.float16, torch.bfloat16):
        return f" of float32, its weights being {weight.dtype}: let its factory return it `.float()`"
    return f" ({one_line(error)}): give a model for that shape, or data of another"


def restore(checkpoint: Checkpoint, trust: Trust = False) -> nn.Module:
    """Builds the compressed network of a checkpoint, in eval mode.

    Built-in models need no trust; a factory does, see `dwindle.models.trust.require_trust`.
    Raises UsageError for code that isn't trusted, CheckpointError where structure or weights don't fit the model it
    names.
    """
    model = _fresh(checkpoint, trust)
    if checkpoint.structure:
        from dwindle.models.structure import rebuild

        own = {name: tensor.clone() for name, tensor in checkpoint.weights.items()}  # it keeps the tensors it is given
        return rebuild(checkpoint.structure, model, own).eval()
    return loaded(model, checkpoint.weights, checkpoint.path / "weights.safetensors").eval()


def restore_dense(checkpoint: Checkpoint, trust: Trust = False) -> nn.Module:
    """Builds the trained network before pruning, in eval mode. Raises as `restore` does."""
    return loaded(_fresh(checkpoint, trust), checkpoint.dense_weights, checkpoint.path / "dense.safetensors").eval()


def _fresh(checkpoint: Checkpoint, trust: Trust) -> nn.Module:
    file = checkpoint.path / DOCUMENT
    spec: ModelSpec = parse(ModelSpec, checkpoint.origin.get("model"), file, within="origin.model")
    if is_code(spec.spec):
        require_trust(spec.spec, "model", trust, checkpoint.path)
    try:
        return build(spec)
    except (RuntimeError, MemoryError, ValueError, TypeError, OverflowError) as error:  # sizes that no network has
        raise CheckpointError(
            f"{checkpoint.path} names a model that can't be built, {spec.spec} with {spec.classes} classes for inputs "
            f"of shape {spec.input_shape} ({one_line(error)})",
            code="field",
            path=file,
            name="origin.model",
        ) from error


def loaded(model: nn.Module, weights: Mapping[str, Tensor], source: Path) -> nn.Module:
    """Loads the weights that were read from `source` into the model, and returns it; raises CheckpointError where they
    don't fit."""
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        reasons = [line.strip().rstrip(". ") for line in str(error).splitlines()[1:]]
        raise CheckpointError(
            f"{source} doesn't fit {type(model).__name__} ({reasons[0] if reasons else error}): "
            "the model's code has changed since, so bring back the version that was compressed",
            code="model-changed",
            path=source,
        ) from error
    return model


def _bad_model(sentence: str) -> UsageError:
    return UsageError(sentence, code="bad-model", option="model")
