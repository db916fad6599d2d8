"""Whether a task gives the model what its `example_inputs` are, which is what exported files will be given."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dwindle.errors import UsageError
from dwindle.models.signature import input_names
from dwindle.models.task_values import bad


@contextmanager
def as_example(
    model: nn.Module, example: tuple[Tensor, ...], keywords: tuple[str, ...] | None, member: str = "fit"
) -> Iterator[None]:
    """Within it, calls of `model` raise UsageError for an input of another kind or rank than the example's.

    member: of the task, which makes the calls.

    Sizes may differ, as sequences and crops do, an input may be left out, as a first state is, and others may be
    added, such as labels.
    """
    names = keywords if keywords is not None else input_names(model, len(example))
    expected = {name: _Form.of(tensor) for name, tensor in zip(names, example, strict=True)}
    hook = model.register_forward_pre_hook(_Check(expected, keywords is not None, member), with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def check_alike(member: str, given: tuple[Tensor, ...], example: tuple[Tensor, ...], context: str = "") -> None:
    """Raises UsageError where what a `member` of the task returned is not, but for its sizes, what the example is.

    context: what the message adds, beginning with a space.
    """
    returned, expected = ([_Form.of(tensor) for tensor in tensors] for tensors in (given, example))
    if len(returned) != len(expected) or not all(map(_Form.fits, returned, expected)):
        theirs, wanted = (", ".join(map(str, forms)) for forms in (returned, expected))
        raise bad(
            member,
            f"returned {theirs}{context}, and its `example_inputs`, which exported files will take, are {wanted}: let "
            "them be alike",
        )


@dataclass(frozen=True)
class _Form:
    dtype: torch.dtype
    rank: int

    @classmethod
    def of(cls, tensor: Tensor) -> _Form:
        return cls(tensor.dtype, tensor.dim())

    def fits(self, other: _Form) -> bool:
        """Whether both are numbers of one kind, be it of other precision, in as many dimensions."""
        same = self.dtype.is_floating_point == other.dtype.is_floating_point
        return same and self.dtype.is_complex == other.dtype.is_complex and self.rank == other.rank

    def __str__(self) -> str:
        return f"{str(self.dtype).removeprefix('torch.')} of {self.rank} dimensions"


@dataclass(frozen=True)
class _Check:
    """A hook, which a copy of the model can be pickled with."""

    expected: Mapping[str, _Form]
    by_name: bool
    member: str

    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if torch.compiler.is_compiling():
            return
        names = inspect.signature(model.forward).parameters if self.by_name else self.expected
        for name, value in {**dict(zip(names, args, strict=False)), **kwargs}.items():
            form = self.expected.get(name)
            if form is not None and isinstance(value, Tensor) and not form.fits(_Form.of(value)):
                raise UsageError(
                    f"the task's `{self.member}` gives the model {_Form.of(value)} as {name!r}, and its "
                    f"`example_inputs`, which exported files will take, {form}: let them be alike",
                    code="bad-member",
                    name="example_inputs",
                )
