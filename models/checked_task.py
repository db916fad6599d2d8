"""The user's task, checked: a default for every optional member, and a sentence for every bad one.

`CheckedTask` wraps what the user wrote (`dwindle.task.Task`), once, where it is made. The rest of dwindle reads
tasks through it alone: an optional member has its default here, a misspelt or ill-typed one is a UsageError before
anything is trained, and whatever the user's code raises becomes one sentence with the line that raised it.
"""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from dwindle.errors import UsageError
from dwindle.models import ranks
from dwindle.models.fed import as_example, check_alike
from dwindle.models.inputs import taken
from dwindle.models.likeness import Likeness
from dwindle.models.signature import flat, nested, signature_of
from dwindle.models.task_members import LABELLED, LAST_LR, OPTIONAL, REQUIRED
from dwindle.models.task_values import as_batch, as_loss, as_number, as_tensors, bad, require_names, users_code
from dwindle.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import nn

    from dwindle.signature import Signature
    from dwindle.task import Split, Task, TaskWithoutLabels

NEAR = 0.8
"""How alike two names are, by `difflib`'s ratio, for one to be taken for a misspelling of the other."""


class CheckedTask:
    """A user's task, with a default for every optional member and a check on whatever it returns.

    Raises UsageError with the `name` of the member at fault where a required one is missing (code `missing-member`),
    a name is all but that of an optional one (`misspelt-member`) or a value has the wrong type (`bad-member`):

        >>> CheckedTask(task).steps          # None where the task has no `steps`
        400
        >>> CheckedTask(task).inputs("test")  # the example inputs, where the task has no `inputs`

    A task that has `inputs` and no `fit` trains nothing; without `evaluate` too it has no labels, and networks are
    judged by how like those of a dense one their answers are (`dwindle.models.likeness`).

    What the user's code raises becomes a DwindleError with the code `task-failed`.
    """

    def __init__(self, given: Task | TaskWithoutLabels) -> None:
        self.given = cast("Task", given)
        """The user's own task."""
        self.labelled = not self.has("inputs") or any(self._member(name) is not None for name in LABELLED)
        """Whether the task judges by itself, so that `evaluate` needs no network to compare with."""
        self._likeness: Likeness | None = None
        own = [name for name in dir(given) if not name.startswith("_")]
        for name in REQUIRED:
            if not callable(self._member(name)):
                near = difflib.get_close_matches(name, set(own) - {name}, 1, NEAR)
                untrained = name == "fit" and self.has("inputs")
                if (untrained or (name in LABELLED and not self.labelled)) and not near:
                    continue
                hint = f"should its `{near[0]}` be named so?" if near else "dwindle.Task says what it must do"
                raise UsageError(f"{self._what} has no method `{name}`: {hint}", code="missing-member", name=name)
        self._refuse_misspelt(own)
        if self.has("state_dict") != self.has("load_state_dict"):
            there, missing = sorted(("state_dict", "load_state_dict"), key=self.has, reverse=True)
            raise UsageError(
                f"{self._what} has `{there}` and no `{missing}`: add that, or remove `{there}`",
                code="missing-member",
                name=missing,
            )

    def has(self, name: str) -> bool:
        """Whether the task has an optional member of its own."""
        assert name in OPTIONAL, name
        return self._member(name) is not None

    @property
    def trains(self) -> bool:
        """Whether the task can train a network."""
        return self._member("fit") is not None

    def without(self, name: str) -> str:
        """The sentence that says what it costs that the task lacks an optional member."""
        return f"the task has no `{name}`: {OPTIONAL[name].without}"

    # What every task has.

    def fit(
        self,
        model: nn.Module,
        *,
        start: float,
        on_step: Callable[[float], None],
        last_lr: bool = False,
        context: str = "",
    ) -> None:
        """Trains `model` as `dwindle.task.Task.fit` does; `on_step` gets the loss as a float.

        context: what the message adds should `fit` raise, such as ` in round 2; round 1 is saved`. Raises UsageError
        where `fit` gives the model other inputs than `example_inputs`, and, after the first step or the last, where it
        leaves other parameters in it.
        """
        # Only fine-tuning asks a task for more than the protocol's two arguments.
        options = {LAST_LR: True} if last_lr else {}
        trained = nested(model)
        names, first = list(dict(model.named_parameters())), True

        def stepped(loss: object) -> None:
            nonlocal first
            if first:
                require_names(model, names)
            first = False
            on_step(as_loss(loss))

        with as_example(trained, self.example_inputs(), self.keywords), users_code("fit", context):
            self.given.fit(trained, start=start, on_step=stepped, **options)
        require_names(model, names)

    def tried(self, model: nn.Module, split: Split) -> float:
        """As `evaluate`, of a network before its first training: raises UsageError too where it is given other inputs
        than `example_inputs`, which is known so before anything that takes long."""
        with as_example(nested(model), self.example_inputs(), self.keywords, "evaluate"):
            return self.evaluate(model, split)

    def evaluate(self, model: nn.Module, split: Split) -> float:
        """The task's metric, the same on every rank; raises UsageError for anything but one finite number.

        Of a task without labels, how like the dense network's the answers to `inputs` of the split are.
        """
        if not self.labelled:
            given = self.inputs(split)
            with taken(given, split):
                return self._compared.of(model, given)
        with users_code("evaluate", f" on the {split} split"):
            own = self.given.evaluate(nested(model), split)
        value: object = ranks.broadcast_from_first(lambda: own)  # a task may judge on each rank's own shard
        found = as_number(value)
        if found is None or not math.isfinite(found):
            raise bad("evaluate", f"returned {value!r} on the {split} split: it must return one finite float")
        return found

    def example_inputs(self) -> tuple[Tensor, ...]:
        """One sample as a batch of one, a tensor for each input of the model, in the signature's order."""
        with users_code("example_inputs"):
            given: Any = self.given.example_inputs()
        inputs = as_tensors("example_inputs", given, None)
        if wrong := [tuple(tensor.shape) for tensor in inputs if tensor.shape[:1] != (1,)]:
            raise bad("example_inputs", f"returned a shape of {wrong[0]}: it must be one sample as a batch of one")
        return inputs

    def compare_with(self, dense: Callable[[], nn.Module]) -> None:
        """Sets what a task without labels compares networks with. dense: builds it, once, when it is first needed."""
        self._likeness = Likeness(dense, self.example_inputs(), self.keywords)

    @property
    def _compared(self) -> Likeness:
        if self._likeness is None:
            raise UsageError(
                f"{self._what} has neither `fit` nor `evaluate`: without labels a network can be judged only beside "
                "the dense one that it was made from",
                code="missing-member",
                name="evaluate",
            )
        return self._likeness

    @cached_property
    def keywords(self) -> tuple[str, ...] | None:
        """The names by which the model is given its inputs, in their order; None where it gets them one by one."""
        with users_code("example_inputs"):
            given: Any = self.given.example_inputs()
        return tuple(map(str, given)) if isinstance(given, Mapping) else None

    def signature(self, model: nn.Module) -> Signature:
        """What `model` takes and gives. Raises UsageError as `dwindle.models.signature.signature_of` does."""
        return signature_of(nested(model), self.example_inputs(), self.keywords, self.states)

    def flat(self, model: nn.Module) -> nn.Module:
        """The model as every stage takes it (`dwindle.models.signature.flat`). Raises as `signature` does."""
        return flat(model, self.signature(model))

    @property
    def states(self) -> Mapping[str, str]:
        """The inputs that are an output of the call before, with the names of those outputs; empty where none is."""
        return self._value("states") or {}

    @property
    def takes_last_lr(self) -> bool:
        """Whether `fit` can hold the schedule's last learning rate."""
        found = inspect.signature(self.given.fit).parameters.values()
        return any(one.name == LAST_LR or one.kind is inspect.Parameter.VAR_KEYWORD for one in found)

    # What a task may have.

    @property
    def optimizer(self) -> torch.optim.Optimizer | None:
        """The optimizer that `fit` uses, kept between its calls."""
        return self._value("optimizer")  # type: ignore[no-any-return]

    def state_dict(self) -> dict[str, Tensor]:
        """The optimizer's and the generators' state, by name; empty where the task has none to give."""
        if not self.has("state_dict"):
            return {}
        with users_code("state_dict"):
            state = dict(self._member("state_dict")())
        for name, value in state.items():
            if not isinstance(name, str) or not isinstance(value, Tensor):
                raise bad(
                    "state_dict", f"has a {type(value).__name__} as {name!r}: it must be flat, with tensors by name"
                )
        return state

    def load_state_dict(self, state: Mapping[str, Tensor], model: nn.Module) -> None:
        """Takes up a state of `state_dict` for `model`; does nothing where the task has no state."""
        if self.has("load_state_dict"):
            with users_code("load_state_dict"):
                self._member("load_state_dict")(state, nested(model))

    def inputs(self, split: Split) -> tuple[Tensor, ...]:
        """A few hundred real inputs of a split, batched; the example inputs where the task has none."""
        if not self.has("inputs"):
            return self.example_inputs()
        with users_code("inputs", f" on the {split} split"):
            found = self._member("inputs")(split)
        return self._batch("inputs", found, f" on the {split} split")

    def _batch(self, member: str, found: object, context: str = "") -> tuple[Tensor, ...]:
        batch = as_batch(member, found, self.keywords, context)
        check_alike(member, batch, self.example_inputs(), context)
        return batch

    def training_inputs(self) -> tuple[Tensor, ...]:
        """A thousand or two inputs as `fit` shows them at its end, batched; else the training split's `inputs`."""
        if not self.has("training_inputs"):
            return self.inputs("train")
        with users_code("training_inputs"):
            found = self._member("training_inputs")()
        return self._batch("training_inputs", found)

    def labels(self, split: Split) -> Tensor | None:
        """The class of each sample, (N,), in `evaluate`'s order; None where the task has no labels."""
        if not self.has("labels"):
            return None
        with users_code("labels", f" on the {split} split"):
            return torch.as_tensor(self._member("labels")(split)).cpu()

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """The names of the classes, in the order of the scores; None where the task has none."""
        found = self._value("class_names")
        return None if found is None else tuple(found)

    @property
    def normalization(self) -> tuple[Tensor, Tensor] | None:
        """The mean and the standard deviation of each channel of an image, from 0 to 255; None where unknown."""
        return self._value("normalization")  # type: ignore[no-any-return]

    @property
    def preprocessing(self) -> Preprocessing | None:
        """How an image becomes an input; what `normalization` says of it where the task has no more, else None."""
        own: Preprocessing | None = self._value("preprocessing")
        if own is not None or self.normalization is None:
            return own
        mean, std = (
            tuple(torch.as_tensor(moment).double().div(255).flatten().tolist()) for moment in self.normalization
        )
        return Preprocessing(mean, std, colours="L" if len(mean) == 1 else "RGB", classes=self.class_names)

    @property
    def metric(self) -> str:
        """The name of what `evaluate` returns; `accuracy` where the task has none, and what is compared without labels
        (`dwindle.models.likeness`)."""
        if not self.labelled:
            return self._compared.metric
        return self._value("metric")  # type: ignore[no-any-return]

    @property
    def steps(self) -> int | None:
        """The number of optimizer steps of the whole schedule; None where the task doesn't say."""
        return self._value("steps")  # type: ignore[no-any-return]

    @property
    def classes(self) -> int | None:
        """The number of outputs of a model of this task; None where the task doesn't say."""
        return self._value("classes")  # type: ignore[no-any-return]

    @property
    def pixel_classes(self) -> int | None:
        """The number of classes of pixels; None where the task doesn't say, or is no segmentation."""
        return self._value("pixel_classes")  # type: ignore[no-any-return]

    @property
    def origin(self) -> Mapping[str, Any] | None:
        """The options from which `dwindle.models.tasks.make_task` makes the same task; None where the task has none."""
        return self._value("origin")  # type: ignore[no-any-return]

    def _member(self, name: str) -> Any:
        with users_code(name):
            return getattr(self.given, name, None)

    def _value(self, name: str) -> Any:
        member, value = OPTIONAL[name], self._member(name)
        if value is None:
            return member.default
        if not member.fits(value):
            raise bad(name, f"is {value!r}: it must be {member.must_be}")
        return value

    def _refuse_misspelt(self, own: list[str]) -> None:
        """Raises UsageError where the task has a member that can only be meant to be an optional one it lacks."""
        absent = OPTIONAL.keys() - own
        for name in own:
            if name in OPTIONAL or name in REQUIRED:
                continue
            meant = difflib.get_close_matches(name, absent, 1, NEAR)
            # A `step()` of the user's own is no misspelt `steps`, which is a number.
            if meant and OPTIONAL[meant[0]].fits(self._member(name)):
                raise UsageError(
                    f"{self._what} has `{name}`: did you mean `{meant[0]}`? If not, let its name start with an "
                    "underscore",
                    code="misspelt-member",
                    name=name,
                )

    @property
    def _what(self) -> str:
        return f"the task, a {type(self.given).__name__},"
