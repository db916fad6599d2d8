"""Builds models by name, fresh or from a checkpoint, and checks that they return logits."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from dwindle.checkpoint import DENSE, DOCUMENT
from dwindle.documents import parse
from dwindle.errors import CheckpointError, UsageError, one_line
from dwindle.models.copies import copied
from dwindle.models.objects import is_object
from dwindle.models.signature import call, leaves_of, scores_of
from dwindle.models.sources.code import Code, Given
from dwindle.models.sources.source import GROUP, ModelSource, registered
from dwindle.models.trust import Trust, is_code, require_trust
from dwindle.models.zoo import ZOO
from dwindle.registry import names

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
    """`zoo:NAME`, another registered source's, or `package.module:factory`; of an object that the caller gave
    `object:` and its class."""
    classes: int | None
    """How many logits the network outputs; None where the task isn't classification."""
    input_shape: tuple[int, ...]
    """The shape of one sample without its batch dimension: (channels, height, width)."""
    config: dict[str, Any] = field(default_factory=dict)
    """What the source builds the network from beside its name (`dwindle.models.sources.source.Found`)."""
    revision: str | None = None
    """The version of the weights that the source began with; None where the network began fresh."""
    pretrained: str | None = None
    """SHA-256 of those weights, or of an object's, by name and value; None where the network began fresh."""


def source_of(spec: object) -> tuple[ModelSource, str]:
    """The source that makes the network `spec`, a name or a module, and what the network is called there.

    Raises UsageError where there is no such source, or its packages aren't installed, and for any other object.
    """
    if isinstance(spec, nn.Module):
        return Given(spec), type(spec).__name__
    if not isinstance(spec, str):  # a class or a function that makes the network, from Python
        called = getattr(spec, "__name__", type(spec).__name__)
        raise _bad_model(
            f"the `model` {called} is no torch.nn.Module: give the network itself, not what makes it, or the name of "
            "its factory, as package.module:factory"
        )
    if found := registered(spec):
        return found
    if ":" not in spec:
        usages = [f"{prefix}:NAME" for prefix in names(GROUP)]
        hint = f"zoo:{spec}" if spec in ZOO else f"{', '.join(usages)} or {Code.usage}"
        raise UsageError(
            f"the `model` {spec!r} doesn't say where it comes from: write {hint}",
            code="unknown-name",
            option="model",
            name=spec,
        )
    return Code(), spec


def build(model: ModelSpec, given: nn.Module | None = None) -> nn.Module:
    """Builds the network with fresh weights, drawn from torch's global generator: seed that first.

    given: the object that `model` describes, of which a copy is returned.
    Raises UsageError for a name that leads nowhere, a factory that fails or a result that isn't a module.
    """
    source, name = source_of(model.spec if given is None else given)
    # A factory may hand out one module each time, which is trained by now.
    made = source.build(name, model.config, model.classes, model.input_shape)
    if scripted := [path for path, module in made.named_modules() if isinstance(module, torch.jit.ScriptModule)]:
        raise _bad_model(
            f"the model {model.spec}{f' has {scripted[0]}, which' if scripted[0] else ''} is a TorchScript module, "
            "whose code is compiled and can't be traced or cut: give the nn.Module that it was made of"
        )
    own = copied(made)
    if any(map(is_lazy, own.parameters())):
        with contextlib.suppress(Exception), torch.no_grad():  # `check_logits` says what is wrong with it
            own(torch.zeros(2, *model.input_shape))
    return own


def check_rebuilds(model: ModelSpec, built: nn.Module) -> None:
    """Checks that the factory of `built` makes such a network again, into which its weights can be loaded later.

    Raises UsageError naming a tensor where it doesn't. The random generator stays where it was.
    """
    if source_of(model.spec)[0].repeatable:
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


def check_logits(
    module: nn.Module,
    inputs: tuple[Tensor, ...],
    classes: int | None,
    keywords: Sequence[str] | None = None,
    pixel_classes: int | None = None,
) -> None:
    """Checks, on a copy, that the module turns a batch into a float tensor of shape (batch, classes), or a dict with
    such `logits`.

    `inputs`: one sample as a batch of one. Without `classes`, any tensors will do, of which a float one can be trained.
    `keywords`: the names by which the module is given its inputs; None: one after the other. `pixel_classes`: of how
    many classes its first output has to tell pixels, (batch, pixel_classes or more, height, width).
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
                given = call(copied(module).train(training), [tensor.to(device) for tensor in batch], keywords)
        except Exception as error:
            raise _bad_model(
                f"the model {name} can't take a sample of shape {shape}{_why(module, shape, error)}"
            ) from error
        first = next((tensor for _, tensor in leaves_of(given)), None) if pixel_classes else None
        if pixel_classes and first is not None and (first.dim() != 4 or first.shape[1] < pixel_classes):
            raise _bad_model(
                f"the model {name} returns shape {tuple(first.shape)} for a batch of 2, and what tells pixels of "
                f"{pixel_classes} classes has shape (2, {pixel_classes}, height, width): give such a network"
            )
        logits = given if classes is None else scores_of(given)
        if classes is None and not isinstance(logits, Tensor):
            continue  # `signature_of` says what is wrong with other outputs
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
    return loaded(_fresh(checkpoint, trust), checkpoint.dense_weights, checkpoint.path / DENSE).eval()


def _fresh(checkpoint: Checkpoint, trust: Trust) -> nn.Module:
    file = checkpoint.path / DOCUMENT
    spec: ModelSpec = parse(ModelSpec, checkpoint.origin.get("model"), file, within="origin.model")
    if checkpoint.model is None and is_object(spec.spec):
        raise UsageError(
            f"{checkpoint.path} was made of a network that no name leads to, {spec.spec}: open it from Python with "
            "Checkpoint.load(path, model=…), a network of the same class",
            code="object-needed",
            option="model",
            path=checkpoint.path,
            name=spec.spec,
        )
    if checkpoint.model is None and is_code(spec.spec):
        require_trust(spec.spec, "model", trust, checkpoint.path)
    try:
        return build(spec, checkpoint.model)
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
