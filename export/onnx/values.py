"""Every value that an ONNX graph computes on a sample: exact, and with results rounded to fp16."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
from onnx import ModelProto
from torch import Tensor

from dwindle.export.onnx.half import showing
from dwindle.onnx_session import session


@dataclass(frozen=True)
class _Step:
    kind: str
    read: list[str]
    made: list[str]


class Values:
    """Runs a graph as `holding.Steps` says.

    skeleton: the graph whose operations are looked at. exact: the whole model of it, in fp32. rounding: makes the whole
    model that rounds the results of all operations but those in a set to fp16.
    """

    def __init__(
        self, skeleton: ModelProto, exact: ModelProto, rounding: Callable[[frozenset[str]], ModelProto]
    ) -> None:
        self._nodes = [node for node in skeleton.graph.node if node.op_type != "Constant"]
        self._exact, self._rounding = exact, rounding
        self._runs: dict[frozenset[str] | None, _Run] = {}

    def steps(self, sample: tuple[Tensor, ...], fp32: Collection[str] | None) -> Iterator[tuple[_Step, list[Tensor]]]:
        key = None if fp32 is None else frozenset(fp32)
        if key not in self._runs:
            self._runs = {one: run for one, run in self._runs.items() if one is None}
            self._runs[key] = _Run(self._exact if key is None else self._rounding(key))
        values = self._runs[key].values(sample)
        for node in self._nodes:
            if made := [name for name in node.output if name in values]:
                yield _Step(node.op_type, list(node.input), made), [values[name] for name in made]


class _Run:
    """A model in a session that answers with every value."""

    def __init__(self, model: ModelProto) -> None:
        whole = showing(model)
        self._names = [output.name for output in whole.graph.output]
        self._session = session(whole.SerializeToString())

    def values(self, sample: tuple[Tensor, ...]) -> dict[str, Tensor]:
        names = [value.name for value in self._session.get_inputs()]
        given = {name: one.numpy() for name, one in zip(names, sample, strict=True)}
        found = zip(self._names, self._session.run(None, given), strict=True)
        return {name: torch.from_numpy(value.astype("float32")) for name, value in found if value.dtype.kind == "f"}
