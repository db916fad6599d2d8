"""Rules of one's own: how an operator or a module that dwindle can't follow carries channels.

An operator is named as torch.ops has it (`mylib.blur`, `aten.cumsum`), a module by its class (`mylib.nets.Blur`).
Packages register rules through the entry-point group `dwindle.rules`, programs by `register_rule`. They take precedence
over dwindle's own. What follows from a rule is tried and proven like everything else: a wrong one cuts nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dwindle.compress.surgery.labels import Labels, Parameter, along, spoiled
from dwindle.compress.surgery.walk import Call, Rule, unknown
from dwindle.errors import DwindleError, UsageError, one_line
from dwindle.registry import entries

GROUP = "dwindle.rules"


class ChannelFlow:
    """What a rule is told of one call of its operator or module, and what it says of the call's channels.

    Channels are int32 tensors with an entry per channel, made by `channels` and `new`, which a rule may slice, permute
    and concatenate; two channels with the same entry are removed together.

        >>> def scale(flow):  # y[:, c] = x[:, c] * gain[c]
        ...     inputs = flow.channels()
        ...     flow.writes("gain", 0, inputs)
        ...     flow.gives(inputs)
    """

    module: str
    """The path of the module that makes the call."""
    inputs: tuple[torch.Size, ...]
    """The shapes of the inputs that are computed, in their order; of a module, in which its forward uses them."""
    outputs: tuple[torch.Size, ...]
    """The shapes of the outputs."""
    parameters: dict[str, torch.Size]
    """The shapes of the model's own parameters and buffers: of an operator by the argument they are given to, of a
    module by their name in it."""
    options: dict[str, Any]
    """The other arguments of an operator, by name; empty for a module."""

    def __init__(self, labels: Labels, call: Call, of: str) -> None:
        self._labels, self._of = labels, of
        self._given = [value for value in call.arguments.values() if isinstance(value, Tensor)]
        self._own = {name: value for name, value in call.arguments.items() if isinstance(value, Parameter)}
        self.module, self.inputs = call.module, tuple(value.shape for value in self._given)
        self.outputs = tuple(value.shape for value in call.values)
        self.parameters = {name: value.shape for name, value in self._own.items()}
        self.options = {
            name: value for name, value in call.arguments.items() if not isinstance(value, Tensor | Parameter)
        }
        self._results: dict[int, Tensor] = {}
        self._met: list[Tensor] = []

    def channels(self, input: int = 0, dim: int = 1) -> Tensor:  # noqa: A002  # what it is
        """The channels along a dimension of an input."""
        return self._seen(self._labels.channels(self._given[input], dim))

    def new(self, count: int) -> Tensor:
        """So many new channels, which the call makes."""
        return self._seen(self._labels.fresh(count))

    def writes(self, parameter: str, dim: int, channels: Tensor) -> None:
        """Zeroing a parameter at these indices of a dimension silences the channels."""
        self._bind(parameter, dim, channels, writes=True)

    def reads(self, parameter: str, dim: int, channels: Tensor, *, sums: bool = True) -> None:
        """A parameter has an index of a dimension for each of these channels, and no part in silencing them.

        sums: whether the call adds up over the channels, as a matrix product does: then they must be zero to go.
        """
        if sums:
            self._labels.pin_spoiled(channels)
        self._bind(parameter, dim, channels, writes=False)

    def together(self, first: Tensor, second: Tensor) -> None:
        """Each of the first channels goes together with that of the second at its place."""
        self._labels.tie(first, second)
        self._labels.pin_where_constant(first, second)

    def stays(self, channels: Tensor, why: str) -> None:
        """These channels can't be removed, for a reason that users are told."""
        self._labels.pin(channels, why)

    def gives(self, channels: Tensor, dim: int = 1, output: int = 0, *, zero: bool = True) -> None:
        """The channels along a dimension of an output.

        zero: whether a silenced channel is zero there; False where it is another constant, as after a sigmoid.
        """
        self._fit(channels, self.outputs[output], dim, f"output {output}")
        self._results[output] = along(channels if zero else spoiled(channels), self.outputs[output], dim)

    def costs(self, each: float, *channels: Tensor) -> None:
        """The call takes `each` times the number of these channels in multiply-accumulates, of several the product.
        Without it, what torch counts, whatever is removed."""
        self._labels.cost(each, *channels)

    def _seen(self, channels: Tensor) -> Tensor:
        self._met.append(channels)
        return channels

    def _bind(self, parameter: str, dim: int, channels: Tensor, *, writes: bool) -> None:
        if parameter not in self._own:
            raise _Computed(parameter)
        self._fit(channels, self.parameters[parameter], dim, f"the parameter {parameter!r}")
        self._labels.bind(self._own[parameter], dim % len(self.parameters[parameter]), channels, writes=writes)

    def _fit(self, channels: Tensor, shape: torch.Size, dim: int, what: str) -> None:
        if channels.dim() != 1 or len(channels) != shape[dim]:
            raise UsageError(
                f"the rule for {self._of} gives {tuple(channels.shape)} channels to dimension {dim} of {what}, whose "
                f"shape is {tuple(shape)}: correct the rule",
                code="bad-rule",
                name=self._of,
            )


OwnRule = Callable[[ChannelFlow], None]
"""Says of one call how its channels go. It calls `gives` for each output, and `writes` and `reads` for each
parameter."""

_registered: dict[str, OwnRule] = {}


class _Computed(Exception):
    """A parameter that the model computes in its forward, so that there is nothing to cut."""


def register_rule(of: str, rule: OwnRule) -> None:
    """Says how an operator or a class of modules carries channels, from now on in this process.

    Args:
        of: The operator, such as `mylib.blur`, or the module's class, such as `mylib.nets.Blur`.
        rule: A function that is given the `ChannelFlow` of a call.

    Raises:
        UsageError: `rule` can't be called.

    Example:
        >>> register_rule("mylib.blur", lambda flow: flow.gives(flow.channels()))
    """
    if not callable(rule):
        raise UsageError(
            f"the rule for {of} is a {type(rule).__name__}: give a function of a ChannelFlow", code="bad-rule", name=of
        )
    _registered[of] = rule


def own_rule(of: str) -> Rule | None:
    """The rule that is registered for an operator or a class of modules; None where there is none.

    Raises UsageError for one that can't be imported, and from the rule itself where it fails.
    """
    own, packaged = _registered.get(of), entries(GROUP)
    if own is None and of in packaged:
        try:
            own = packaged[of].load()
        except (ImportError, AttributeError) as error:
            raise UsageError(
                f"the rule for {of}, which a package registers as a `{GROUP}` entry point, cannot be imported: {error}",
                code="not-importable",
                name=of,
            ) from error
    return None if own is None else _as_rule(of, own)


def _as_rule(of: str, own: OwnRule) -> Rule:
    def rule(labels: Labels, call: Call) -> Any:
        flow, costs = ChannelFlow(labels, call, of), len(labels.costs)
        try:
            own(flow)
        except _Computed:
            for channels in flow._met:
                labels.pin(channels, f"a parameter of {of} is computed in forward")
            return unknown(labels, call)
        except DwindleError:
            raise
        except Exception as error:  # whatever a rule raises
            raise UsageError(
                f"the rule for {of} fails on {call.module or 'the model'} ({type(error).__name__}: {one_line(error)}): "
                "correct the rule",
                code="bad-rule",
                name=of,
            ) from error
        if missing := [index for index in range(len(call.values)) if index not in flow._results]:
            raise UsageError(
                f"the rule for {of} says nothing of output {missing[0]}: call `gives` for each output",
                code="bad-rule",
                name=of,
            )
        if len(labels.costs) == costs:
            labels.cost(call.macs())
        labels.literal(*flow._met, rule=of)
        return [flow._results[index] for index in range(len(call.values))]

    return rule
