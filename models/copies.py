"""Copies of a module: one way for every place that needs one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from types import CellType, FunctionType
from typing import Any

from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.overrides import TorchFunctionMode

from dwindle.errors import UsageError, one_line

Change = Callable[[str, Tensor], Tensor]
"""Makes the copy's tensor from a parameter's or buffer's name and the tensor itself. A tensor that a module keeps
without registering it (a table made in `__init__`, an attention map) has the name ""."""


def copied(module: nn.Module, change: Change | None = None) -> nn.Module:
    """Returns a deep copy that shares no tensor with `module`: what is tied stays tied, gradients are left behind.

    `copy.deepcopy` refuses a module that keeps what it computed (an attention map, a hook's feature, the weight of an
    old `spectral_norm`), as such a tensor hangs on its graph. Here it is copied without the graph. It also leaves
    functions as they are: here those that a module holds, its hooks among them, speak of the copy where their closures
    or defaults speak of the module (`lambda module, args, output: setattr(self, "features", output)`).

    change: makes every tensor of the copy, for a copy of other sizes, types or devices; it may return the tensor it
    is given, which is then shared. Raises UsageError for a module that holds what can't be copied, such as a lock.
    """
    memo: dict[int, Any] = {}
    if change is not None:
        for name, parameter in module.named_parameters():
            memo[id(parameter)] = nn.Parameter(change(name, parameter), requires_grad=parameter.requires_grad)
        for name, buffer in module.named_buffers():
            memo[id(buffer)] = change(name, buffer)
    try:
        with _Unregistered(change):
            result = copy.deepcopy(module, memo)
    except Exception as error:  # handles, locks, generators: whatever a module may hold
        raise UsageError(
            f"the model {type(module).__name__} can't be copied ({one_line(error)}): keep only parameters, buffers and "
            "plain values in it",
            code="bad-model",
            option="model",
            name=type(module).__name__,
        ) from error
    parts = dict(result.named_modules())
    for path, part in module.named_modules():
        if path in parts:  # a graph module's own way to copy itself forgets the modes
            parts[path].training = part.training
    for part in parts.values():
        for held in (vars(part), *(value for value in vars(part).values() if isinstance(value, dict))):
            for name, value in held.items():
                if isinstance(value, FunctionType):
                    held[name] = _speaking_of(value, memo)
    return result


def _speaking_of(function: FunctionType, copies: Mapping[int, Any]) -> FunctionType:
    """The same function, about the copies, by `id`, of what its closure and its defaults hold."""

    def of(value: Any) -> Any:
        return copies.get(id(value), value)

    def cell_of(cell: CellType) -> CellType:
        try:
            held = cell.cell_contents
        except ValueError:  # empty: a name that its outer function has not set yet
            return cell
        return CellType(of(held)) if id(held) in copies else cell

    made = FunctionType(
        function.__code__,
        function.__globals__,
        function.__name__,
        tuple(map(of, function.__defaults__ or ())),
        tuple(map(cell_of, function.__closure__ or ())),
    )
    made.__kwdefaults__ = {name: of(value) for name, value in (function.__kwdefaults__ or {}).items()}
    vars(made).update(vars(function))
    return made


class _Unregistered(TorchFunctionMode):
    """Stands in for `Tensor.__deepcopy__`, for the tensors that `copy.deepcopy` meets beside parameters: without their
    graph, and through `change`."""

    def __init__(self, change: Change | None) -> None:
        super().__init__()
        self.change = change

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.__deepcopy__ and isinstance(args[0], FakeTensor):
            # What a trace left in a module, such as through a hook that writes to a global: it has no data to copy.
            return args[0]
        if func is not Tensor.__deepcopy__ or (args[0].is_leaf and self.change is None):
            return func(*args, **(kwargs or {}))
        tensor, memo = args
        if id(tensor) not in memo:
            memo[id(tensor)] = self.change("", tensor) if self.change is not None else tensor.detach().clone()
        return memo[id(tensor)]
