"""Copies of modules that hold more than parameters and buffers."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import UsageError
from dwindle.models.copies import copied


class Keeper(nn.Module):
    """Keeps what it computed, in an attribute, in a list and through a hook, and a table that is no buffer."""

    def __init__(self) -> None:
        super().__init__()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            self.spectral = nn.utils.spectral_norm(nn.Linear(4, 4))  # type: ignore[no-untyped-call]
            self.normed = nn.utils.weight_norm(nn.Linear(4, 4))  # type: ignore[no-untyped-call]
        self.recurrent, self.table = nn.LSTM(4, 4), torch.arange(4.0)
        self.tied = self.recurrent.weight_ih_l0
        self.maps: list[tuple[Tensor]] = []
        self.features: dict[str, Tensor] = {}
        self.recurrent.register_forward_hook(lambda _, args, output: self.features.update(out=output[0]))

    def forward(self, x: Tensor) -> Tensor:
        self.last = self.normed(self.spectral(x) + self.table)
        self.maps.append((self.last,))
        return self.recurrent(self.last)[0]


def test_a_module_that_keeps_what_it_computed_is_copied() -> None:
    module, x = Keeper(), torch.randn(3, 2, 4)
    module(x).sum().backward()
    copy = copied(module)
    assert torch.equal(copy.eval()(x), module.eval()(x))
    assert copy.tied is copy.recurrent.weight_ih_l0
    assert copy.maps[0][0] is not module.maps[0][0]
    assert not copy.maps[0][0].requires_grad
    assert not any(a is b for a, b in zip(copy.parameters(), module.parameters(), strict=True))
    copy.table.zero_()
    assert module.table.any()


def test_every_tensor_of_the_copy_can_be_changed() -> None:
    module, x = Keeper(), torch.randn(3, 2, 4)
    module(x)
    double = copied(module, lambda name, tensor: tensor.detach().double())
    assert double.table.dtype == double.last.dtype == double.tied.dtype == torch.float64
    torch.testing.assert_close(double.eval()(x.double()).float(), module.eval()(x))


class Hooked(nn.Module):
    """Reads what three hooks keep: in `self`, by a closure and by a default, and in a dict that `self` has too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)
        self.kept = kept = dict[str, Tensor]()
        self.one, self.two = torch.zeros(()), torch.zeros(())

        def by_default(_: nn.Module, args: tuple[Tensor], output: Tensor, *, to: nn.Module = self) -> None:
            to.two = output

        self.first.register_forward_hook(lambda _, args, output: setattr(self, "one", output))
        self.second.register_forward_hook(by_default)
        self.third.register_forward_hook(lambda _, args, output: kept.update(three=output))
        self.scaled: Callable[[Tensor], Tensor] = lambda x: x * self.first.weight[0, 0]

    def forward(self, x: Tensor) -> Tensor:
        last: Tensor = self.third(self.second(self.first(x)))
        return self.scaled(last) + self.one + self.two + self.kept["three"]


@pytest.mark.parametrize("ran", [False, True])
def test_hooks_of_the_copy_speak_of_the_copy(ran: bool) -> None:
    module, x = Hooked(), torch.randn(2, 4)
    if ran:
        module(torch.randn(3, 4))
    before = module.one, module.two, module.kept.get("three")
    copy = copied(copied(module))
    answer = copy(x)
    assert all(a is b for a, b in zip(before, (module.one, module.two, module.kept.get("three")), strict=True))
    torch.testing.assert_close(answer, module(x))
    with torch.no_grad():
        module.first.weight.zero_()
    torch.testing.assert_close(copy(x), answer)


def test_what_cannot_be_copied_is_refused_in_a_sentence() -> None:
    module = nn.Sequential(nn.Linear(2, 2))
    module.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(UsageError) as caught:
        copied(module)
    assert (caught.value.code, caught.value.name) == ("bad-model", "Sequential")
