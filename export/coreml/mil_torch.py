"""Running a Core ML program without Core ML: its operations one by one, in PyTorch, on the CPU.

Weights are what the file holds, fp16 and less. Within an operation arithmetic is fp32: how a device rounds there, and
in what order it adds, nothing here can tell. Every result that the file declares fp16 is rounded to fp16, which makes
what is beyond its reach infinite.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dwindle.export.coreml.mil_ops import OPERATIONS
from dwindle.export.coreml.mil_order import topk_of_values
from dwindle.export.coreml.mil_shapes import INDEXED, counted_from_zero
from dwindle.export.coreml.mil_unproven import UNDEFINED, unproven
from dwindle.export.coreml.read import main_block, read

if TYPE_CHECKING:
    from coremltools.proto.MIL_pb2 import NamedValueType, Operation, Value

_HALF, _SINGLE, _BOOL = 10, 11, 1
"""MIL.proto's DataType; the others that a program computes with are integers."""
_FROM_IOS_17 = 8
"""specificationVersion from which indices count from the first element only."""


@dataclass(frozen=True)
class Step:
    """An operation of a program, ready to run."""

    kind: str
    run: Callable[..., Any]
    reads: dict[str, str | list[str]]
    """Its parameters, each the name of a constant or of another step's output, or several."""
    outputs: list[NamedValueType]

    @property
    def made(self) -> list[str]:
        """The names of its outputs."""
        return [output.name for output in self.outputs]

    @property
    def read(self) -> list[str]:
        """The names of what it reads."""
        return [name for names in self.reads.values() for name in (names if isinstance(names, list) else [names])]


class Interpreter:
    """The main function of an .mlpackage. Called with a tensor per input, it returns its outputs.

    Raises ValueError for a damaged package and for one that Core ML refuses, RuntimeUnavailable, by name, for an
    operation that isn't in `mil_ops`, a parameter of it, or a use of it that is not defined.
    """

    def __init__(self, package: Path) -> None:
        model, constants = read(package)
        block = main_block(model)
        modern = model.specificationVersion >= _FROM_IOS_17
        self._inputs = list(model.mlProgram.functions["main"].inputs)
        self._outputs = list(block.outputs)
        self._constants: dict[str, Any] = {name: _tensor(array) for name, array in constants.items()}
        self._steps: list[Step] = []
        for operation in block.operations:
            if operation.type == "const":
                if (name := operation.outputs[0].name) not in constants:
                    self._constants[name] = _text(operation.attributes["val"])
            elif operation.type == "classify":  # of a classifier: its scores are the answer, whatever their names
                self._outputs = [operation.inputs["probabilities"].arguments[0].name]
            elif not operation.type.startswith("constexpr_"):  # `read` has those decoded
                self._steps.append(_step(operation, modern))
        self._steps = [_without_places(step, self._read()) for step in self._steps]

    def _read(self) -> set[str]:
        """The names of all values that an operation reads or the program returns."""
        names = {name for step in self._steps for name in step.read}
        return names | set(self._outputs)

    @torch.no_grad()
    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        values: dict[str, Any] = {}
        for _ in self.steps(inputs, values=values):
            pass
        return [values[name] for name in self._outputs]

    @torch.no_grad()
    def steps(
        self, sample: tuple[Tensor, ...], fp32: Collection[str] | None = None, values: dict[str, Any] | None = None
    ) -> Iterator[tuple[Step, list[Tensor]]]:
        """Each operation, in order, with its outputs, as `holding.Steps`.

        fp32: the operations that do not round what they read of the file and what they make to fp16, whatever the file
        declares; None: those round that it declares so. values: filled with every value by name.
        """
        values = {} if values is None else values
        values |= self._constants
        for declared, value in zip(self._inputs, sample, strict=True):
            values[declared.name] = _as_declared(value, declared, "input")
        for step in self._steps:
            rounds = fp32 is not None and step.made[0] not in fp32
            given = {key: _look_up(names, values) for key, names in step.reads.items()}
            if rounds:
                given = {key: _rounded(value) for key, value in given.items()}
            made = step.run(**given)
            made = list(made) if isinstance(made, tuple) else [made]
            outputs = [
                _as_declared(value, declared, step.kind, keep=fp32 is not None)
                for declared, value in zip(step.outputs, made, strict=True)
            ]
            outputs = [_rounded(value) for value in outputs] if rounds else outputs
            values |= dict(zip(step.made, outputs, strict=True))
            yield step, outputs


def _step(operation: Operation, modern: bool) -> Step:
    kind = operation.type
    run = OPERATIONS.get(kind)
    if run is None:
        raise unproven(kind, UNDEFINED.get(kind, "dwindle's interpreter of Core ML files lacks it"))
    if more := operation.inputs.keys() - inspect.signature(run).parameters.keys():
        raise unproven(kind, f"dwindle's interpreter of Core ML files lacks its {', '.join(sorted(more))}")
    if modern and kind in INDEXED:
        run = counted_from_zero(run)
    several = {"values"}  # of `concat` and its like: a list even where there is one
    reads = {
        key: [binding.name for binding in argument.arguments] if key in several else argument.arguments[0].name
        for key, argument in operation.inputs.items()
    }
    return Step(kind, run, reads, list(operation.outputs))


def _without_places(step: Step, read: set[str]) -> Step:
    """`topk` whose places nothing reads answers with values alone, and equal values then make no difference."""
    if step.kind == "topk" and step.outputs[-1].name not in read:
        return replace(step, run=topk_of_values)
    return step


def _look_up(names: str | list[str], values: Mapping[str, Any]) -> Any:
    return [values[name] for name in names] if isinstance(names, list) else values[names]


def _tensor(array: Any) -> Tensor:
    """A constant, in the types that the arithmetic here is done in."""
    value = torch.from_numpy(array.copy())
    if value.dtype == torch.bool:
        return value
    return value.float() if value.is_floating_point() else value.long()


def _text(value: Value) -> str:
    (text,) = value.immediateValue.tensor.strings.values
    return str(text)


def _as_declared(value: Tensor, declared: NamedValueType, kind: str, *, keep: bool = False) -> Tensor:
    """A result in the type that the file gives it; with `keep`, not rounded. Raises ValueError for another shape; sizes
    that vary are any."""
    tensor = declared.type.tensorType
    shape = tuple(one.constant.size if one.HasField("constant") else None for one in tensor.dimensions)
    if len(value.shape) != len(shape) or any(
        size not in (own, None) for own, size in zip(value.shape, shape, strict=True)
    ):
        raise ValueError(f"{declared.name} ({kind}) has the shape {tuple(value.shape)}, and in the file {shape}")
    if tensor.dataType == _HALF:
        return value.float() if keep else _rounded(value.float())
    return value.float() if tensor.dataType == _SINGLE else value.bool() if tensor.dataType == _BOOL else value.long()


def _rounded(value: Any) -> Any:
    """Floating-point tensors as fp16 holds them; anything else as it is."""
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    if isinstance(value, Tensor) and value.is_floating_point():
        return value.half().float()
    return value
