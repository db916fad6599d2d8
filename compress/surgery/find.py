"""Finds what can be removed from a network: traces it, solves its labels, and tries what the trace cannot tell."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import torch
from torch import Tensor, nn

from dwindle.compress.surgery.exactness import agrees, runs
from dwindle.compress.surgery.groups import Extent, Found, Group, Place, Product, explain
from dwindle.compress.surgery.labels import Labels, Literal, compact, varying
from dwindle.compress.surgery.own import own_rule
from dwindle.compress.surgery.rules import rule_of
from dwindle.compress.surgery.trace import trace
from dwindle.compress.surgery.walk import walk
from dwindle.errors import UsageError
from dwindle.models.attention import STAND_INS
from dwindle.record import Uncut

_WITH_STAND_INS = {
    f"{kind.__module__}.{kind.__qualname__}" for known in STAND_INS for kind in (known.original, known.slim)
}
"""Attention layers that count their heads from their weights."""

_ADAPTED = ("torch.nn.modules.channelshuffle.ChannelShuffle",)
"""Modules of torch whose attributes are sizes for certain, which a trial could miss by luck."""

_WEIGHTS = re.compile(r"weight(_ih(_l0)?|_v|_orig|\.original\d?)?$")
"""How the names of weights end by whose rows a layer's channels are told: of a recurrent one the first from its input,
and those that torch.nn.utils computes a weight from."""

_SPARED = ("", "its channels can only go all together", "no layer that runs would cost less without them")


def find_groups(model: nn.Module, example_inputs: tuple[Tensor, ...], *, inexact: bool = False) -> Found:
    """Traces `model` on the example inputs, in eval mode, and finds what can be removed together.

    What is in no group stays; `whole` says why. Modules whose code may have sizes written out (`view`, `split`, a
    functional call) are run once with fewer channels, with their integer attributes adapted if need be, and kept whole
    if they cannot take it. Weights, modes and gradients are left alone.

    inexact: also finds channels that change what is left when they go, such as those that a LayerNorm averages over;
    `Group.inexact` says so, and all that is tried of them is that the network runs without them.

    Raises UsageError for a model that cannot be traced, that has masks attached, or that has nothing to remove.
    """
    labels = _labelled(model, example_inputs, inexact)
    adapted, strictly = set(_ADAPTED), set[str]()
    while True:
        solved = _Solved(labels, model)
        found = solved.found(adapted, strictly)
        risks = solved.risks()
        failing = _failing(found, risks, model, example_inputs)
        if not failing:
            if not (stiff := _stiff(found, model, example_inputs)):
                break
            for index in stiff:
                labels.pin(solved.labels_of(index), "its code cannot take fewer of its channels")
            continue
        stuck = set().union(*(risks[owner] for owner in failing & adapted))
        if beside := {owner for owner, groups in risks.items() if groups & stuck} - adapted:
            adapted |= beside  # it may be the code beside that has the sizes of the same channels
            continue
        if failing & adapted - strictly:
            strictly |= failing & adapted
            continue
        if clashes := [rows for owner, rows in solved.clashes if owner in failing]:
            for one, other in clashes:  # an attribute is the number of both
                labels.tie(one, other)
                labels.pin_where_constant(one, other)
            continue
        # Those of few groups first: a layer's wrapper, whose code has all sizes, is not to blame for an attention's.
        failing = _failing(found, dict(sorted(risks.items(), key=lambda item: len(item[1]))), model, example_inputs)
        if failing & adapted - strictly:
            strictly |= failing & adapted
            continue
        for literal in labels.literals:
            if literal.owner in failing & adapted:
                name = literal.owner.rpartition(".")[2]
                why = f"the code of {name} cannot take fewer of its channels"
                for piece in literal.pieces:
                    labels.pin(piece, f"the rule for {literal.rule} does not hold" if literal.rule else why)
        adapted |= failing
    if not found.groups:
        raise UsageError(
            f"no channel of this model can be removed{' exactly' * (not inexact)} ({explain(found.uncut)}): prune its "
            f"weights instead{', or allow `inexact_cuts`' * (not inexact)}",
            code="nothing-to-prune",
            option="granularity",
        )
    return found


def _labelled(model: nn.Module, example_inputs: tuple[Tensor, ...], inexact: bool) -> Labels:
    """Follows what runs in eval mode, and what only runs in training (auxiliary heads) if that leaves weights out."""
    labels = Labels(inexact=inexact)
    program = trace(model, example_inputs)
    walk(labels, program, rule_of, own_rule)
    first, inputs = _first_names(model), program.graph_signature.inputs_to_parameters
    reached = {first[inputs[node.name]] for node in program.graph.nodes if node.name in inputs and node.users}
    if reached < set(dict(model.named_parameters())):
        costs = list(labels.costs)
        with suppress(UsageError):  # weights that no mode reaches stay as they are
            walk(
                labels, trace(model, tuple(torch.cat([x, x]) for x in example_inputs), training=True), rule_of, own_rule
            )
        labels.costs = costs
    labels.bind_leaves()
    frozen = {name for name, p in model.named_parameters() if p.dim() > 1 and not p.requires_grad}
    for binding in labels.bindings:
        if (name := first[binding.tensor]) in frozen:
            labels.pin(binding.labels, f"{name.rpartition('.')[0] or name} is frozen (requires_grad is False)")
    return labels


class _Solved:
    """The classes that labels end in, sorted into groups by the places they are bound to."""

    def __init__(self, labels: Labels, model: nn.Module) -> None:
        self.labels, self.model = labels, model
        self.modules = dict(model.named_modules())  # a trace may name one that isn't there, made of a slice of layers
        self.root, self.why = labels.solve()
        self.first = first = _first_names(model)
        self.leaves = {first[parameter.name] for parameter in labels.leaves}
        self.bound: dict[tuple[str, int], Tensor] = {}
        self.writers: set[tuple[str, int]] = set()
        for binding in labels.bindings:
            key = first[binding.tensor], binding.dim
            self.bound[key] = self.classes(binding.labels)
            self.writers |= {key} if binding.writes else set()
        self.group_of = torch.full((labels.count,), -1)
        self.spared = torch.zeros(labels.count, dtype=torch.long)
        self.clashes: list[tuple[str, tuple[Tensor, Tensor]]] = []
        """Channels of unlike groups whose number a module keeps in one attribute, with the module's class."""
        self.groups = self._group()
        for pin in labels.approximated:
            for index in set(self.group_of[self.classes(pin.labels)].unique().tolist()) - {-1}:
                self.groups[index] = replace(self.groups[index], inexact=self.groups[index].inexact or pin.reason)

    def labels_of(self, index: int) -> Tensor:
        """All labels of a group."""
        return (self.group_of[self.root.long()] == index).nonzero()[:, 0].int()

    def classes(self, labels: Tensor) -> Tensor:
        return self.root[labels.long()].long()

    def _group(self) -> list[Group]:
        """Classes with the same places, and as many indices in each of them, make a group. Where a class is met in a
        layer's cost counts as a place too, so that all units of a group cost the same."""
        keys = list(self.bound)
        met = list(self.bound.values())
        met += [self.classes(factor.flatten()) for cost in self.labels.costs for factor in cost.factors]
        place = torch.cat([torch.full((len(classes),), i) for i, classes in enumerate(met)])
        index = torch.cat([torch.arange(len(classes)) for classes in met])
        classes, order = torch.cat(met).sort(stable=True)
        place, index, classes = place[order][classes > 0], index[order][classes > 0], classes[classes > 0]
        ids, lengths = classes.unique_consecutive(return_counts=True)
        alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
        for unit, places in enumerate(place.split(lengths.tolist())):
            alike[tuple(places.tolist())].append(unit)
        indices = index.split(lengths.tolist())
        groups: list[Group] = []
        for signature, units in sorted(alike.items()):
            if len(units) == 1 or max(signature) < len(keys):
                self.spared[ids[units]] = 1 if len(units) == 1 else 2
                continue
            self.group_of[ids[units]] = len(groups)
            table, column = torch.stack([indices[unit] for unit in units]), torch.tensor(signature)
            places = tuple(
                Place(*keys[i], table[:, column == i], keys[i] in self.writers)
                for i in dict.fromkeys(signature)
                if i < len(keys)
            )
            maker = next((p for p in places if p.writes), places[0])
            channels = math.gcd(*(p.indices.shape[1] for p in places if p.tensor not in self.leaves)) or 1
            groups.append(Group(maker.tensor.rpartition(".")[0], len(units), channels, places))
        return groups

    def extent(self, classes: Tensor) -> Extent:
        counts = torch.bincount(self.group_of[classes.flatten()] + 1, minlength=len(self.groups) + 1).tolist()
        per_unit = ((g, n // self.groups[g].units) for g, n in enumerate(counts[1:]) if n)
        return Extent(counts[0], tuple(per_unit))

    def found(self, adapted: set[str], strictly: set[str]) -> Found:
        return Found(
            groups=tuple(self.groups),
            uncut=tuple(self._uncut()),
            layers=tuple(
                Product(cost.module, cost.each, tuple(self.extent(self.classes(factor)) for factor in cost.factors))
                for cost in self.labels.costs
            ),
            tensors=tuple(self._sizes(name, parameter) for name, parameter in self.model.named_parameters()),
            sizes={key: len(classes) for key, classes in self.bound.items()},
            attributes=self._attributes(
                [literal for literal in self.labels.literals if literal.owner in adapted], strictly
            ),
        )

    def _sizes(self, name: str, tensor: Tensor) -> Product:
        dims = [dim for dim in range(tensor.dim()) if (name, dim) in self.bound]
        each = math.prod(size for dim, size in enumerate(tensor.shape) if dim not in dims)
        return Product(name, each, tuple(self.extent(self.bound[name, dim]) for dim in dims))

    def _uncut(self) -> Iterator[Uncut]:
        """By layer, what of its outputs is in no group."""
        weights = {n: p for n, p in self.model.named_parameters() if p.dim() > 1 and _WEIGHTS.search(n)}
        leaves = {self.first[parameter.name]: own for parameter, own in self.labels.leaves.items()}
        told = set[str]()
        made = {self.first[b.tensor]: b.labels for b in self.labels.bindings if b.writes}
        for name, weight in weights.items():
            layer, computed, _ = name.partition(".parametrizations.")
            layer = layer if computed else name.rpartition(".")[0]
            if computed and layer in told:
                continue
            told.add(layer)
            if name in leaves and name not in made:
                made[name] = leaves[name].flatten(1)[:, 0]
            if name not in made:
                if not any(tensor == name for tensor, _ in self.bound):
                    yield Uncut(layer, len(weight), len(weight), "the trace does not reach it")
                continue
            channels = made[name].unique()  # each gate of a recurrent layer has a row of its units
            classes = self.classes(channels)
            stays = (classes == 0) | (self.spared[classes] > 0)
            if stays.any():
                why = self.why[channels.long()][stays].long()
                reasons = [self.labels.pinned[i].reason for i in why.tolist() if i >= 0]
                reasons += [_SPARED[i] for i in self.spared[classes].tolist() if i]
                reason, _ = Counter(reasons or ["tied to channels that stay"]).most_common(1)[0]
                yield Uncut(layer, int(stays.sum()), len(classes), reason)

    def _attributes(
        self, literals: list[Literal], strictly: set[str]
    ) -> dict[tuple[str, str], Extent | tuple[Extent, ...]]:
        """Attributes of a module with the value of a size in its code, or of a list of them: taken to be that, and
        tried. Where a size that stays has the same value, and comes later, `strictly` takes them to be that one."""
        result: dict[tuple[str, str], Extent | tuple[Extent, ...]] = {}
        rows_of: dict[tuple[str, str], Tensor] = {}
        for literal in literals:
            module = self.modules.get(literal.module)
            if module is None or literal.owner in _WITH_STAND_INS:
                continue
            plain = {name: value for name, value in vars(module).items() if not name.startswith("_")}
            rows = [row for piece in literal.pieces for row in self._rows(piece, literal.owner in strictly)]
            if len(literal.pieces) > 1:
                for name, value in plain.items():
                    if isinstance(value, list | tuple) and list(value) == [len(row) for row in rows]:
                        result[literal.module, name] = tuple(map(self.extent, rows))
                continue
            for row in rows:
                for name, value in plain.items():
                    if type(value) is int and value == len(row):
                        place = literal.module, name
                        if place in result and result[place] != self.extent(row):
                            self.clashes.append((literal.owner, (rows_of[place].int(), row.int())))
                        result[place], rows_of[place] = self.extent(row), row
        return result

    def _rows(self, labels: Tensor, staying: bool) -> Iterator[Tensor]:
        """The classes along every dimension in which they vary, or did before some of them turned out to stay."""
        classes = compact(self.root[labels.long()])
        for dim in varying(labels if staying else classes):
            yield classes.movedim(dim, 0).reshape(classes.shape[dim], -1)[:, 0].long()

    def risks(self) -> dict[str, set[int]]:
        """By class of module, the groups whose sizes may be written out in its code."""
        result: dict[str, set[int]] = defaultdict(set)
        for literal in self.labels.literals:
            for piece in literal.pieces:
                result[literal.owner] |= set(self.group_of[self.classes(piece)].unique().tolist()) - {-1}
        return {owner: groups for owner, groups in result.items() if groups}


def _failing(
    found: Found, risks: dict[str, set[int]], model: nn.Module, example_inputs: tuple[Tensor, ...]
) -> set[str]:
    """The classes of modules that don't compute the right thing with half of these groups' units."""
    generator = torch.Generator().manual_seed(0)

    def wrong(groups: set[int]) -> bool:
        keep = found.keep(_halves(found, groups, generator))
        exact = found.without(keep, inexact=True)
        inexact = any(found.groups[index].inexact for index in groups)
        return not agrees(model, exact, example_inputs) or (inexact and not runs(model, keep, example_inputs))

    if not risks or not wrong(set().union(*risks.values())):
        return set()
    failing: set[str] = set()
    for owner, groups in risks.items():
        others = set().union(*(risks[other] for other in failing))
        if groups - others and wrong(groups - others):
            failing.add(owner)
    return failing or set(risks)


def _stiff(found: Found, model: nn.Module, example_inputs: tuple[Tensor, ...]) -> set[int]:
    """The groups of inexact cuts that the network does not run without half of."""
    generator = torch.Generator().manual_seed(0)
    inexact = [index for index, group in enumerate(found.groups) if group.inexact]
    return {
        index for index in inexact if not runs(model, found.keep(_halves(found, {index}, generator)), example_inputs)
    }


def _halves(found: Found, groups: set[int], generator: torch.Generator) -> list[Tensor]:
    """About half of the units of some groups, at random, and all of the others'. Not the same share of each, as
    the code may take several numbers to be one, such as the heads' width for the network's."""
    halves = []
    for index, group in enumerate(found.groups):
        # Sevenths are no share that a group of few units, such as heads, can be left with.
        count = group.units * (2, 3, 5)[index % 3] // 7 if group.units > 5 else group.units // 2
        some = torch.randperm(group.units, generator=generator)[:count].sort().values
        halves.append(some if index in groups else torch.arange(group.units))
    return halves


def _first_names(model: nn.Module) -> dict[str, str]:
    """The name under which `named_parameters` and `named_buffers` list a tensor, by any of its names."""
    first: dict[int, str] = {}
    names: dict[str, str] = {}
    for listing in (model.named_parameters, model.named_buffers):
        for name, tensor in listing(remove_duplicate=False):
            names[name] = first.setdefault(id(tensor), name)
    return names
