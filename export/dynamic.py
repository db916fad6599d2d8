"""Inputs whose sizes vary from call to call: traced so, refused where the model fixes one, tried at their bounds.

Which dimensions vary is said by the signature of a flat network (`dwindle.models.signature.Flat`). Of a network that is
not flat none does.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dwindle.errors import UsageError
from dwindle.export.patch import replaced
from dwindle.models.signature import Flat, flat, nested
from dwindle.signature import BATCH, Signature, Varying

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

Place = tuple[int, int]
"""An input, by its position, and one of its dimensions."""


@dataclass(frozen=True)
class Axis:
    """Dimensions of inputs that always have the same size, as the network asks for or as they are the batch."""

    name: str
    places: tuple[Place, ...]
    varies: Varying


def places_of(network: nn.Module) -> dict[Place, Varying]:
    """The dimensions of a network's inputs that vary."""
    inputs = network.signature.inputs if isinstance(network, Flat) else ()
    return {(index, one.dim): one for index, each in enumerate(inputs) for one in each.varies}


def fixed(network: nn.Module) -> nn.Module:
    """The network with every size of its inputs fixed."""
    if not places_of(network):
        return network
    assert isinstance(network, Flat)
    inputs = tuple(replace(one, varies=()) for one in network.signature.inputs)
    return flat(nested(network), replace(network.signature, inputs=inputs))


def shapes(network: nn.Module) -> tuple[dict[int, Any], ...] | None:
    """What `torch.export.export` wants to know of each input's sizes; None where no dimension varies."""
    from torch.export import Dim

    if not (places := places_of(network)):
        return None
    assert isinstance(network, Flat)
    each: list[dict[int, Any]] = [{} for _ in network.signature.inputs]
    for (index, dim), one in places.items():
        each[index][dim] = Dim.DYNAMIC(min=one.least, max=one.most)
    return tuple(each)


def example(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The inputs that a network is to be traced with, whose sizes that vary are 2 or more: a 1 is often kept as it is.

    inputs: one sample as a batch of one.
    """
    return stretched(
        inputs,
        {
            (index, dim): one.least + one.step
            for (index, dim), one in places_of(network).items()
            if inputs[index].shape[dim] == 1
        },
    )


def stretched(tensors: tuple[Tensor, ...], sizes: Mapping[Place, int]) -> tuple[Tensor, ...]:
    """Tensors with other sizes: what is there is cut off, or repeated from its beginning."""
    import torch

    made = list(tensors)
    for (index, dim), size in sizes.items():
        made[index] = made[index].index_select(dim, torch.arange(size) % made[index].shape[dim])
    return tuple(made)


@contextmanager
def traceable(network: nn.Module) -> Iterator[None]:
    """Lets torch.export trace a network in the block with any of its sizes, 1 among them.

    Raises UsageError where the model fixes a dimension that is said to vary, with the line of the model's code.
    """
    if not (places := places_of(network)):
        yield
        return
    assert isinstance(network, Flat)
    import torch.fx.experimental._config as config
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    seen: dict[int, Any] = {}
    original = ShapeEnv._get_sloc

    def located(self: Any, framework_loc: str | None = None) -> Any:
        seen[id(self)] = self
        return replace(original(self, framework_loc), maybe_user_loc=_line())

    with replaced(ShapeEnv, "_get_sloc", located), config.patch(backed_size_oblivious=True):  # type: ignore[attr-defined]
        try:
            yield
        finally:
            for environment in seen.values():
                _require_varying(environment, network.signature, places)


def axes_of(program: ExportedProgram, network: nn.Module) -> tuple[Axis, ...]:
    """The sizes of a traced network that vary independently of each other, named for what varies."""
    if not isinstance(network, Flat):
        return ()
    names = [one.name for one in network.signature.inputs]
    groups: dict[str, list[Place]] = {}
    for place in places_of(network):
        groups.setdefault(symbol(program, place) if place[1] else BATCH, []).append(place)
    varies = places_of(network)
    return tuple(
        Axis(BATCH if not places[0][1] else f"{names[places[0][0]]}_{places[0][1]}", tuple(places), varies[places[0]])
        for places in groups.values()
    )


def symbol(program: ExportedProgram, place: Place) -> str:
    """The name by which a traced network has the size of a dimension of an input."""
    inputs = [node for node in program.graph.nodes if node.name in program.graph_signature.user_inputs]
    return str(inputs[place[0]].meta["val"].shape[place[1]])


def _require_varying(environment: Any, signature: Signature, places: Mapping[Place, Varying]) -> None:
    """Raises UsageError for a dimension that tracing fixed, or that the network takes only some sizes of."""
    by_source = {source.name: symbol for symbol, sources in environment.var_to_sources.items() for source in sources}
    symbols = {place: by_source.get(f"L['tensors'][{place[0]}].size()[{place[1]}]") for place in places}
    for place, own in symbols.items():
        to = environment.replacements.get(own)
        if to is None:
            continue
        line = environment.replacements_slocs[own].maybe_user_loc
        if to.is_number:
            raise _refused(signature, place, places[place], f"takes {to} alone", line)
        other = next((one for one, symbol in symbols.items() if symbol == to), None)
        if other is None or places[other] != replace(places[place], dim=other[1]):
            what = f"{signature.inputs[other[0]].name}:{other[1]}" if other else str(to)
            raise _refused(signature, place, places[place], f"wants the size of {what} there", line)
    for sizes in _looked_at(places):
        values = {own: sizes[place] for place, own in symbols.items() if own is not None}
        for guard in environment.guards:
            if guard.expr.xreplace(values) in (False, 0):
                place = next(one for one, symbol in symbols.items() if symbol in guard.expr.free_symbols)
                line = guard.sloc.maybe_user_loc
                raise _refused(signature, place, places[place], f"doesn't take {sizes[place]}", line)


def _looked_at(places: Mapping[Place, Varying]) -> list[dict[Place, int]]:
    """The sizes at which guards are looked at: both bounds, the middle, and beside these."""
    points: list[Callable[[Varying], int]] = [
        lambda one: one.least,
        lambda one: min(one.least + one.step, one.most),
        lambda one: one.middle,
    ]
    points += [lambda one: max(one.most - one.step, one.least), lambda one: one.most]
    return [{place: at(one) for place, one in places.items()} for at in points]


def _refused(signature: Signature, place: Place, one: Varying, why: str, line: str | None) -> UsageError:
    name = f"{signature.inputs[place[0]].name}:{place[1]}"
    where = f", at {line}" if line else ""
    return UsageError(
        f"`dynamic` says that {name} varies from {one.least} to {one.most}, and the model {why}{where}: change the "
        "model, or the sizes",
        code="fixed-by-model",
        option="dynamic",
        name=name,
    )


def _line() -> str | None:
    """The innermost line of the model's own code that is being traced; None where none is."""
    import torch

    libraries = tuple(str(Path(file).parent) for file in (torch.__file__, __file__))
    line = None
    for frame, number in traceback.walk_stack(None):
        file = frame.f_code.co_filename
        if file == flat.__code__.co_filename:  # the view of the network, which called it
            return line
        if line is None and not file.startswith((*libraries, "<")):
            line = f"{Path(file).name}, line {number}"
    return None
