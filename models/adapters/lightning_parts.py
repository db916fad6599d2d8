"""What a LightningTask makes of a user's module and loaders, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.nn.utils import prune

from dwindle.errors import UsageError, one_line

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule


class Called(nn.Module):
    """Anything that answers a batch, as a module."""

    def __init__(self, answer: Callable[..., Any]) -> None:
        super().__init__()
        self.answer, self.called = answer, False

    def forward(self, *inputs: Any) -> Any:
        self.called = True
        return self.answer(*inputs)


def check(module: LightningModule, network: str | None, callbacks: Iterable[Any]) -> None:
    """Raises UsageError for what a LightningTask can't train. callbacks: those that its Trainer is given."""
    from lightning.pytorch.callbacks import ModelPruning

    if not module.automatic_optimization:
        raise UsageError(
            f"{type(module).__name__} optimises by hand (automatic_optimization is False), and masks are put back on "
            "after Lightning's own step: let Lightning step, or write a task with a `fit` of your own",
            code="unsupported",
            name="automatic_optimization",
        )
    if prune.is_pruned(module) or any(isinstance(each, ModelPruning) for each in callbacks):
        raise UsageError(
            f"{type(module).__name__} has masks of its own beside dwindle's: leave out Lightning's ModelPruning, and "
            "make masks permanent by torch.nn.utils.prune.remove",
            code="unsupported",
            name="pruning",
        )
    try:
        made: Any = module.configure_optimizers()
    except Exception:  # one that asks its trainer for something: `one_optimizer` looks once there is one
        pass
    else:
        _require_one(module, made)
    if network is not None:
        inside = dict(module.named_children()).get(network)
        if inside is None:
            raise UsageError(
                f"{type(module).__name__} has no module `{network}`: give `network` one of "
                f"{', '.join(name for name, _ in module.named_children())}",
                code="unknown-name",
                option="network",
                name=network,
            )
        own = {id(parameter) for parameter in inside.parameters()}
        outside = [n for n, p in module.named_parameters() if p.requires_grad and id(p) not in own]
        if outside:
            raise UsageError(
                f"{type(module).__name__} trains {outside[0]}, which is not in its `{network}`: leave out `network`, "
                "and the whole module is the network",
                code="conflict",
                option="network",
                name=outside[0],
            )


def _optimizers(made: Any) -> list[Any]:
    """The optimizers in what `configure_optimizers` returned: one, or several, or two lists, the second of schedules,
    or dictionaries that name each."""
    if not isinstance(made, list | tuple):
        return [made]
    if made and isinstance(made[0], list | tuple):
        return list(made[0])
    return [one for one in made if not isinstance(one, dict) or "optimizer" in one]


def _require_one(module: LightningModule, made: Any) -> None:
    if made is not None and len(_optimizers(made)) == 1:
        return
    has = "no optimizer" if made is None else "several optimizers"
    raise UsageError(
        f"{type(module).__name__} has {has}: LR rewinding knows one schedule, so let `configure_optimizers` return one "
        "optimizer",
        code="unsupported",
        name="configure_optimizers",
    )


@contextmanager
def one_optimizer(module: LightningModule) -> Iterator[None]:
    """Within it, a training of a module whose `configure_optimizers` doesn't return one optimizer raises UsageError."""
    own, before = module.configure_optimizers, dict(vars(module))

    def checked() -> Any:
        made: Any = own()
        _require_one(module, made)
        return made

    module.configure_optimizers = checked
    try:
        yield
    finally:
        del module.configure_optimizers
        if "configure_optimizers" in before:
            module.configure_optimizers = own


def one_loader(loader: Any) -> Any:
    """The one loader of a split; raises UsageError for several, and for one that doesn't know its length."""
    if isinstance(loader, list | tuple) and len(loader) == 1:
        loader = loader[0]
    try:
        len(loader)
        if isinstance(loader, list | tuple | dict):
            raise TypeError("several loaders")
    except TypeError as error:
        raise UsageError(
            f"the data module's loader can't be used ({one_line(error)}): give one DataLoader with a length",
            code="bad-member",
            name="train_dataloader",
        ) from error
    return loader
