"""Which operator of a network is the first that a file gets wrong, or that a format cannot hold.

A file of the network's beginning, up to an operator, answers with every value that later operators read. Where such a
file is right up to one operator and not up to the next, that next one is it. This asks of a target nothing but to write
and to run, so that it holds for any runtime, and takes as many files as halvings of the number of operators.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwindle.difference import difference
from dwindle.errors import DwindleError
from dwindle.export.answers import outputs_of
from dwindle.export.blame import called, described, operator
from dwindle.export.dynamic import fixed
from dwindle.export.fold import trace
from dwindle.export.parity import SAMPLES, TOLERANCE, Allowed
from dwindle.export.roundoff import carried
from dwindle.export.steps import begin
from dwindle.export.target import Outputs, Target
from dwindle.models.inputs import as_fed

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn
    from torch.fx import GraphModule, Node


_COPIED = ("placeholder", "get_attr", "call_function")
"""The nodes that compute. `call_module` is torch.export's check of inputs."""


def named(
    error: DwindleError,
    target: Target,
    shipped: nn.Module,
    example: tuple[Tensor, ...],
    real: tuple[Tensor, ...],
    *,
    pack: bool,
) -> DwindleError:
    """An error of a target's `write` or of `parity.compare`, with the first operator that it is about.

    As it is where that is in it already, where weights differ, and where no single operator can be found.
    Arguments: those of `first_off`.
    """
    if error.code == "not-runnable" or (error.code == "outputs-differ" and _tells(target)):
        what = "the first operator that differs"
        begin(f"looking for {what}, as {error}")
        node = first_off(target, shipped, example, real, pack=pack)
    elif error.code == "not-convertible" and not operator(error):
        what = "the operator that cannot be written"
        begin(f"looking for {what}, as {error}")
        node = first_unwritable(target, shipped, example, pack=pack)
    else:
        return error
    if node is None:
        return error
    words = f"{error}; {what} is {described(node)}"
    return type(error)(words, code=error.code, option=error.option, path=error.path, name=called(node))


def first_off(
    target: Target, shipped: nn.Module, example: tuple[Tensor, ...], real: tuple[Tensor, ...], *, pack: bool
) -> Node | None:
    """The first operator whose value in a file is not the network's, or without which no file runs.

    None where files of the network's beginnings are all right. Of a target that rounds activations they are where they
    run: what rounding does to one value is not told from a mistake.

    shipped: what `fold.deployable` returns. example: its input, a batch of one. real: samples, batched. pack: as in
    `Target.write`.
    """
    samples = tuple(as_fed(tensor[:SAMPLES]) for tensor in real)

    def off(beginning: nn.Module, sizes: list[int]) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"part{target.suffix}")
            target.write(beginning, example, path, pack=pack)
            try:
                (found,) = target.run(path, samples)
            except DwindleError:
                raise
            except Exception:  # whatever a runtime makes of a file it can't run
                return True
        if not _tells(target):
            return False
        stored = target.as_stored(beginning, activations=False)
        (expected,) = outputs_of(stored, samples)
        ours, theirs = _apart(found, sizes), _apart(expected, sizes)
        limit = Allowed(TOLERANCE[target.arithmetic])
        if not _differ(ours, theirs, [limit.most] * len(sizes)):
            return False
        shares = carried(_answering_apart(stored, sizes), ours, theirs, samples)
        return _differ(ours, theirs, [limit.carrying(share).most for share in shares])

    return _first(shipped, example, off)


def _tells(target: Target) -> bool:
    """Whether a mistake shows in one value: not where activations are rounded, nor in an arithmetic without a
    tolerance."""
    return not target.rounds_activations and target.arithmetic in TOLERANCE


def first_unwritable(target: Target, shipped: nn.Module, example: tuple[Tensor, ...], *, pack: bool) -> Node | None:
    """The first operator with which no file can be written; None where all beginnings can be. Arguments as above."""

    def refused(beginning: nn.Module, _: list[int]) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            try:
                target.write(beginning, example, Path(folder, f"part{target.suffix}"), pack=pack)
            except DwindleError:
                return True
        return False

    return _first(shipped, example, refused)


def _first(
    shipped: nn.Module, example: tuple[Tensor, ...], fails: Callable[[nn.Module, list[int]], bool]
) -> Node | None:
    """The first call of a network with which its beginning `fails`; None where none does, or none can be asked.

    fails: given a network's beginning and the sizes of the values in its one output.
    """
    whole: Any = trace(fixed(shipped), example).module()
    calls = [node for node in whole.graph.nodes if node.op == "call_function" and _is_tensor(node)]

    def asked(index: int) -> bool:
        made = _beginning(whole, calls[index])
        try:
            return made is not None and fails(*made)
        except DwindleError:  # what this beginning answers with may be what the target lacks
            return False

    if not calls or not asked(len(calls) - 1):
        return None
    right, wrong = -1, len(calls) - 1
    while wrong - right > 1:
        middle = (right + wrong) // 2
        right, wrong = (right, middle) if asked(middle) else (middle, wrong)
    found: Node = calls[wrong]
    return found


def _beginning(whole: GraphModule, last: Node) -> tuple[nn.Module, list[int]] | None:
    """A network up to a call, whose output joins in one row all values that later calls read; and their sizes."""
    import torch
    from torch import fx

    order = {node: index for index, node in enumerate(whole.graph.nodes)}
    read = [
        node
        for node in order
        if node.op == "call_function"
        and order[node] <= order[last]
        and _is_tensor(node)
        and any(order[user] > order[last] for user in node.users)
    ]
    if not read:
        return None
    graph = fx.Graph()
    copies: dict[Node, Node] = {}
    for node in order:
        if node.op in _COPIED and (order[node] <= order[last] or node.op == "placeholder"):
            copies[node] = graph.node_copy(node, copies.__getitem__)
    rows = [graph.call_method("float", (graph.call_method("reshape", (copies[node], (1, -1))),)) for node in read]
    graph.output(rows[0] if len(rows) == 1 else graph.call_function(torch.cat, (rows, 1)))
    graph.eliminate_dead_code()
    return fx.GraphModule(whole, graph).eval(), [node.meta["val"].numel() for node in read]


def _answering_apart(beginning: nn.Module, sizes: list[int]) -> nn.Module:
    """A network's beginning that answers with its values one by one."""
    from torch import nn

    class Apart(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.beginning = beginning

        def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
            values: tuple[Tensor, ...] = self.beginning(*inputs).split(sizes, 1)
            return values

    return Apart()


def _apart(joined: np.ndarray, sizes: list[int]) -> Outputs:
    """The values that are joined in rows."""
    import numpy as np

    return tuple(np.split(joined, np.cumsum(sizes)[:-1], 1))


def _differ(found: Outputs, expected: Outputs, limits: list[float]) -> bool:
    """Whether any of the values is off by more than its limit, over the largest of that value."""
    import numpy as np

    for one, other, limit in zip(found, expected, limits, strict=True):
        finite = np.isfinite(other)
        if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
            return True
        if finite.any() and difference(one[finite], other[finite]).relative > limit:
            return True
    return False


def _is_tensor(node: Node) -> bool:
    import torch

    value = node.meta.get("val")
    return isinstance(value, torch.Tensor) and not value.is_complex()
