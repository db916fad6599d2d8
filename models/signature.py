"""From any network to one that takes tensors one after the other and gives a tuple of them, and back.

    signature = signature_of(network, inputs, keywords=("input_ids", "attention_mask"))
    flat(network, signature)(ids, mask)   # a tuple of tensors, whatever dict or dataclass the network returns
    nested(flat(network, signature))      # the network itself, for the user's own code

Every stage after the task works on flat networks. A network that takes tensors one after the other and gives one tensor
is flat as it is, unless sizes of its inputs vary: the view is what knows of them.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from dwindle.errors import UsageError
from dwindle.models.copies import copied
from dwindle.signature import Input, Output, Signature, Step

ALONE = "output"
"""The name of an output that is a tensor alone, and how the names of outputs without one of their own begin."""


_NETWORKS: WeakKeyDictionary[nn.Module, nn.Module] = WeakKeyDictionary()
"""The network of each view of one that there is."""


def signature_of(
    network: nn.Module,
    inputs: tuple[Tensor, ...],
    keywords: Sequence[str] | None = None,
    states: Mapping[str, str] | None = None,
) -> Signature:
    """The signature of a network, from one forward pass of a copy in eval mode.

    inputs: one sample as a batch of one. keywords: the names of `forward`'s parameters that they are given to; None:
    they are given one after the other. states: outputs that are the next call's inputs, `{input: output}`.

    Raises UsageError for an output that is no tensor or has a NaN, for names that files can't tell apart, and for a
    state whose output has another shape or type than its input.

        >>> signature_of(network, (torch.rand(1, 3, 32, 32),)).outputs
        (Output(name='output', path=(), shape=(1, 10), dtype='float32'),)
    """
    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        given = call(copied(network).eval(), tuple(tensor.to(device) for tensor in inputs), keywords)
    leaves = dict(leaves_of(given))
    if not leaves:
        raise UsageError(
            f"the model {type(network).__name__} returns no tensor: its forward must return one or more",
            code="bad-model",
            option="model",
        )
    names = tuple(keywords) if keywords is not None else input_names(network, len(inputs))
    answers = _named(tuple(leaves), names)
    for name, tensor in zip(answers, leaves.values(), strict=True):
        if tensor.is_floating_point() and bool(tensor.isnan().any()):
            raise UsageError(
                f"the model {type(network).__name__} itself answers with NaN in {name!r} on the task's example inputs: "
                "correct its weights, or the inputs",
                code="not-finite",
                option="model",
                name=name,
            )
    outputs = tuple(
        Output(name, path, tuple(tensor.shape), dtype_name(tensor))
        for name, (path, tensor) in zip(answers, leaves.items(), strict=True)
    )
    states = states or {}
    return Signature(
        tuple(
            Input(name, tuple(tensor.shape), dtype_name(tensor), states.get(name))
            for name, tensor in zip(names, inputs, strict=True)
        ),
        _with_states(outputs, dict(zip(names, inputs, strict=True)), states),
        keywords is not None,
    )


def flat(network: nn.Module, signature: Signature) -> nn.Module:
    """The network as one that takes tensors one after the other and gives a tuple of them; itself where it is so.

    It is a view: parameters, buffers, layers and attributes are the network's own, under their own names.
    """
    if (signature.plain and signature.fixed) or isinstance(network, Flat):
        return network
    kind = _flat_kind(type(network), signature)  # type: ignore[arg-type]  # a class is hashable
    view = kind.__new__(kind)
    object.__setattr__(view, "__dict__", network.__dict__)
    _NETWORKS[view] = network
    return view


def nested(network: nn.Module) -> nn.Module:
    """The network that `flat` made a view of; any other as it is."""
    return network.flat_of if isinstance(network, Flat) else network


class Flat(nn.Module):
    """A view of a network. It shares all of the network's state, so that a layer that one replaces is replaced in both.

    It holds nothing else: torch.export gives a network of shared layers another class, of the same layout.
    """

    __slots__ = ()
    signature: Signature

    @property
    def flat_of(self) -> nn.Module:
        """The network itself."""
        return _NETWORKS[self]

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        import copy

        return flat(copy.deepcopy(self.flat_of, memo), self.signature)


@cache
def _flat_kind(kind: type[nn.Module], signature: Signature) -> type[Flat]:
    names = [one.name for one in signature.inputs] if signature.keywords else None
    paths = [output.path for output in signature.outputs]

    def forward(self: Flat, *tensors: Tensor) -> tuple[Tensor, ...]:
        own = kind.forward  # which a graph module may have replaced since
        given = own(self, *tensors) if names is None else own(self, **dict(zip(names, tensors, strict=True)))
        outputs: list[Tensor] = []
        for path in paths:
            tensor = _at(given, path)
            # A file has no output that is an input, nor one under two names.
            again = any(tensor is other for other in (*tensors, *outputs))
            outputs.append(tensor.clone() if again else tensor)
        return tuple(outputs)

    def train(self: Flat, mode: bool = True) -> Flat:
        self.flat_of.train(mode)
        return self

    members = {"__slots__": (), "__module__": kind.__module__, "forward": forward, "signature": signature}
    if issubclass(kind, GraphModule):  # torch.export runs its graph, whatever its class has as `forward`
        return type(kind.__name__, (Flat,), {**members, "train": train})
    return type(kind.__name__, (Flat, kind), members)


def call(network: nn.Module, tensors: Sequence[Tensor], keywords: Sequence[str] | None) -> Any:
    """What the network itself gives for its inputs, by name where there are `keywords`."""
    return network(*tensors) if keywords is None else network(**dict(zip(keywords, tensors, strict=True)))


def scores_of(given: Any) -> Any:
    """The scores by class in what a classifier returns: itself, or the `logits` of a dict that has some, as of
    transformers."""
    return given["logits"] if isinstance(given, Mapping) and "logits" in given else given


def outputs_of(given: Any) -> tuple[Tensor, ...]:
    """What a flat network gave, as a tuple."""
    return (given,) if isinstance(given, Tensor) else tuple(given)


def input_names(network: nn.Module, count: int) -> tuple[str, ...]:
    """The names of a network's first `count` inputs, from the parameters of its `forward`.

    >>> input_names(nn.Linear(2, 3), 1)
    ('input',)
    """
    if isinstance(network, Flat):
        return tuple(one.name for one in network.signature.inputs)
    parameters = inspect.signature(network.forward).parameters.values()
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [one.name for one in parameters if one.kind in plain][:count]
    rest = count - len(names)
    return (*names, *(["input"] if count == 1 and rest else [f"input_{len(names) + i}" for i in range(rest)]))


def output_names(network: nn.Module) -> tuple[str, ...]:
    """The names of the outputs of a flat network, in their order."""
    return tuple(one.name for one in network.signature.outputs) if isinstance(network, Flat) else (ALONE,)


def bound(signature: Signature, args: Sequence[Tensor], kwargs: Mapping[str, Any]) -> tuple[Tensor, ...]:
    """The tensors that a user's code called a network with, in the signature's order.

    Raises UsageError for one that is missing, and for one that no exported file takes.
    """
    names = [one.name for one in signature.inputs]
    given = {**({} if signature.keywords else dict(zip(names, args, strict=False))), **kwargs}
    many = len(args) > (0 if signature.keywords else len(names))
    if many or given.keys() != set(names):
        how = "by name" if signature.keywords else "in this order"
        odd = sorted(given.keys() ^ set(names))
        raise UsageError(
            f"an exported file takes {', '.join(names)}, {how}, as `example_inputs` gives them, and `evaluate` called "
            f"it with {len(args)} tensors and the names {', '.join(kwargs) or 'none'}: give it those alone",
            code="bad-member",
            name=odd[0] if odd else "evaluate",
        )
    return tuple(given[name] for name in names)


def regrouped(signature: Signature, outputs: Sequence[Tensor]) -> Any:
    """Outputs of a file in the form in which the network returns them: a tensor, tuples, and `Answer` for what has
    names."""
    if signature.plain:
        return outputs[0]
    return _grouped([(output.path, tensor) for output, tensor in zip(signature.outputs, outputs, strict=True)])


class Answering(nn.Module):
    """A file as a module that a task's `evaluate` can call as it does the network itself."""

    def __init__(
        self, infer: Callable[[tuple[Tensor, ...]], Sequence[Tensor]], signature: Signature | None = None
    ) -> None:
        """infer: from a batch for each input to one for each output. signature: the network's; None where it takes its
        inputs one after the other, and gives one tensor."""
        super().__init__()
        self.infer, self.signature = infer, signature

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Any:
        inputs = args if self.signature is None else bound(self.signature, args, kwargs)
        outputs = [output.to(inputs[0].device) for output in self.infer(inputs)]
        if self.signature is None:
            return outputs[0] if len(outputs) == 1 else tuple(outputs)
        return regrouped(self.signature, outputs)


class Answer(dict[str, Any]):
    """A dict or dataclass of a network's outputs: each is an item, an attribute, and an entry by its position."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, key: str | int) -> Any:
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


def dtype_name(tensor: Tensor) -> str:
    """PyTorch's name of a tensor's type, without its prefix."""
    return str(tensor.dtype).removeprefix("torch.")


def _grouped(entries: list[tuple[tuple[Step, ...], Tensor]]) -> Any:
    if entries[0][0] == ():
        return entries[0][1]
    parts: dict[Step, list[tuple[tuple[Step, ...], Tensor]]] = {}
    for (first, *rest), tensor in entries:
        parts.setdefault(first, []).append((tuple(rest), tensor))
    built = {key: _grouped(inside) for key, inside in parts.items()}
    if all(isinstance(key, int) for key in built):
        return tuple(built.get(index) for index in range(max(map(int, built)) + 1))  # None where the network gave it
    return Answer({str(key): value for key, value in built.items()})


def leaves_of(value: Any, path: tuple[Step, ...] = ()) -> Iterator[tuple[tuple[Step, ...], Tensor]]:
    """Every tensor of what a network returns, by its path; None is left out.

    Raises UsageError for anything else in it.
    """
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, tuple | list):
        for index, entry in enumerate(value):
            yield from leaves_of(entry, (*path, index))
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from leaves_of(entry, (*path, key if isinstance(key, int) else str(key)))
    elif is_dataclass(value):
        for field in fields(value):
            yield from leaves_of(getattr(value, field.name), (*path, field.name))
    elif value is not None:
        where = ".".join(map(str, path))
        raise UsageError(
            f"the model returns a {type(value).__name__}{f' at {where}' if where else ''}, and a file gives only "
            "tensors: return tensors, in tuples, lists, dicts or dataclasses, or None",
            code="bad-model",
            option="model",
            name=where or "output",
        )


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        value = value[step] if isinstance(value, tuple | list | Mapping) else getattr(value, step)
    return value


def _fit(name: str) -> str:
    """A name that every format takes: letters, digits and underscores."""
    plain = re.sub(r"\W", "_", name, flags=re.ASCII)
    return f"_{plain}" if plain[:1].isdigit() else plain


def _named(paths: Sequence[tuple[Step, ...]], inputs: Sequence[str]) -> tuple[str, ...]:
    """A name for each output, by its path. One that is an input's too has `_out` behind it.

    Raises UsageError where two inputs or two outputs would have one name.
    """
    taken = list(inputs)
    names = [
        "_".join([ALONE] * (not path or isinstance(path[0], int)) + [str(step) for step in path]) for path in paths
    ]
    fit = [f"{name}_out" if name in taken else name for name in map(_fit, names)]
    for what, several in (("inputs", taken), ("outputs", fit)):
        if twice := next((name for name in several if several.count(name) > 1), None):
            raise UsageError(
                f"two {what} of the model would be named {twice!r} in exported files: give them other names",
                code="duplicate-name",
                option="model",
                name=twice,
            )
    return tuple(fit)


def _with_states(
    outputs: tuple[Output, ...], inputs: Mapping[str, Tensor], states: Mapping[str, str]
) -> tuple[Output, ...]:
    """The outputs, once every state is known to fit."""
    by_name = {output.name: output for output in outputs}
    for name, wanted in states.items():
        if name not in inputs or wanted not in by_name:
            there = inputs if name not in inputs else by_name
            raise UsageError(
                f"the task's `states` names {name if name not in inputs else wanted!r}, and the model has "
                f"{', '.join(there)}: give the names of an input and of the output that is its next value",
                code="bad-member",
                name="states",
            )
        output, tensor = by_name[wanted], inputs[name]
        if output.shape != tuple(tensor.shape) or output.dtype != dtype_name(tensor):
            raise UsageError(
                f"the state {wanted!r} is {output.dtype} of shape {output.shape}, and the input {name!r} that it "
                f"becomes is {dtype_name(tensor)} of shape {tuple(tensor.shape)}: they must be the same",
                code="bad-member",
                name="states",
            )
    return outputs
