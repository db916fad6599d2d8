"""What a task's members raise and return, checked: one sentence that names the member, and the line that raised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from dwindle.errors import DwindleError, UsageError, one_line
from dwindle.models.inputs import row_major


@contextmanager
def users_code(member: str, context: str = "") -> Iterator[None]:
    """Runs code of the task's `member` in the block; what it raises becomes a DwindleError that names the line.

    context: what the message adds, beginning with a space or a semicolon.
    """
    try:
        yield
    except DwindleError:
        raise
    except (Exception, SystemExit) as error:
        said = one_line(error, placed=True)
        raise DwindleError(
            f"the task's `{member}` failed ({said}){context}", code="task-failed", name=member
        ) from error


def bad(member: str, sentence: str) -> UsageError:
    return UsageError(f"the task's `{member}` {sentence}", code="bad-member", name=member)


def require_names(model: nn.Module, names: Sequence[str]) -> None:
    """Raises UsageError where the parameters of a model that `fit` trains are no longer those of `names`."""
    now = dict(model.named_parameters())
    if gone := [name for name in names if name not in now]:
        raise bad(
            "fit",
            f"took the parameter {gone[0]} out of the network, as masks of torch.nn.utils.prune and parametrizations "
            "do: leave pruning to dwindle, and what else changes the network to the model's factory",
        )
    if new := [name for name in now if name not in names]:
        raise bad("fit", f"added the parameter {new[0]} to the network: let the model's factory do that")


def as_number(value: object) -> float | None:
    """A number of any kind, NumPy's or a tensor's too, as a float; None for anything else."""
    try:
        return float(value.detach() if isinstance(value, Tensor) else value)  # type: ignore[arg-type]
    except (TypeError, ValueError, RuntimeError):
        return None


def as_loss(value: object) -> float:
    """What `fit` called `on_step` with, as a float, be it infinite or not a number."""
    found = as_number(value)
    if found is None:
        raise bad("fit", f"called on_step with {value!r}: it must be the step's loss, a float")
    return found


def as_tensors(member: str, value: object, keywords: tuple[str, ...] | None) -> tuple[Tensor, ...]:
    """Checks that a member returned tensors, in a tuple or by name, and makes each row-major.

    keywords: the names that a dictionary must have, in the order of the result; None: those that it has.
    """
    given = value
    if isinstance(value, Mapping):
        if keywords is not None and (odd := value.keys() ^ set(keywords)):
            raise bad(
                member, f"has other names than `example_inputs`: {min(map(str, odd))} is in one and not in the other"
            )
        given = tuple(value[name] for name in keywords or value)
    elif keywords is not None:
        raise bad(
            member, f"returned a {type(value).__name__}: it must be a dictionary, as `example_inputs` returns one"
        )
    if not isinstance(given, tuple) or not given or not all(isinstance(tensor, Tensor) for tensor in given):
        what = tuple(type(one).__name__ for one in given) if isinstance(given, tuple) else type(given).__name__
        raise bad(
            member,
            f"returned {what}: it must be a tuple of tensors, one per argument of the model, or a dictionary "
            "of them by the arguments' names",
        )
    return tuple(map(row_major, given))


def as_batch(member: str, value: object, keywords: tuple[str, ...] | None, context: str = "") -> tuple[Tensor, ...]:
    """Checks that a member returned a batch of samples: tensors of one length, and not empty."""
    found = as_tensors(member, value, keywords)
    lengths = {len(tensor) if tensor.dim() else 0 for tensor in found}
    if len(lengths) > 1 or not min(lengths):
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in found)
        raise bad(member, f"returned shapes of {shapes}{context}: it must return one or more samples, batched")
    return found
