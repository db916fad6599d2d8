"""Rules of one's own: for an operator and for a module, used, wrong, failing, and found by entry point."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import pytest
import torch
from torch import Tensor, library, nn

from dwindle.compress import ChannelFlow, register_rule
from dwindle.compress.surgery import own
from dwindle.compress.surgery.choice import cut, find_groups, prove
from dwindle.compress.surgery.groups import Found
from dwindle.errors import UsageError

IMAGE = (torch.randn(1, 3, 6, 6),)


@library.custom_op("dwindle_tests::scaled", mutates_args=())
def scaled(x: Tensor, gain: Tensor) -> Tensor:
    return x * gain[:, None, None]


@scaled.register_fake
def _(x: Tensor, gain: Tensor) -> Tensor:
    return torch.empty_like(x)


class Scaled(nn.Module):
    """Applies the operator, between two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1)
        self.gain = nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.ops.dwindle_tests.scaled(self.first(x), self.gain))


class Mixing(nn.Module):
    """A linear layer over channels that are sorted in between, and put back: nothing that can be followed."""

    def __init__(self, inputs: int = 8, outputs: int = 6) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(outputs, inputs)), nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        x, order = x.sort(1)
        x = torch.zeros_like(x).scatter(1, order, x)
        return torch.einsum("oc,bchw->bohw", self.weight, x) + self.bias[:, None, None]


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.mixing, self.last = nn.Conv2d(3, 8, 1), Mixing(), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.mixing(self.first(x)).relu())


def scale_rule(flow: ChannelFlow) -> None:
    inputs = flow.channels()
    flow.writes("gain", 0, inputs)
    flow.gives(inputs)


def mixing_rule(flow: ChannelFlow) -> None:
    inputs, outputs = flow.channels(), flow.new(flow.outputs[0][1])
    flow.reads("weight", 1, inputs)
    flow.writes("weight", 0, outputs)
    flow.writes("bias", 0, outputs)
    flow.gives(outputs)
    flow.costs(flow.inputs[0][2] * flow.inputs[0][3], inputs, outputs)


MIXING = f"{Mixing.__module__}.{Mixing.__qualname__}"


@pytest.fixture(autouse=True)
def _nothing_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own, "_registered", {})


def units(found: Found) -> dict[str, int]:
    return {group.name: group.units for group in found.groups}


def halved(model: nn.Module) -> tuple[Found, nn.Module]:
    found = find_groups(model.eval(), IMAGE)
    keep = found.keep([torch.arange(0, count, 2) for count in found.units])
    assert prove(model, keep, IMAGE) < 1e-10
    return found, cut(model, keep)


def test_an_operator() -> None:
    with pytest.raises(UsageError, match=r"dwindle_tests\.scaled is not an op whose channels can be followed"):
        find_groups(Scaled().eval(), IMAGE)
    register_rule("dwindle_tests.scaled", scale_rule)
    found, small = halved(Scaled())
    assert units(found) == {"first": 8}
    assert small.gain.shape == (4,)


def test_a_module_as_a_whole() -> None:
    assert "first" not in units(find_groups(Mixed().eval(), IMAGE))
    register_rule(MIXING, mixing_rule)
    found, small = halved(Mixed())
    assert units(found) == {"first": 8, "mixing": 6}
    assert small.mixing.weight.shape == (3, 4)
    assert found.macs([4, 3]) == 36 * (3 * 4 + 4 * 3 + 3 * 4)


def test_a_wrong_rule_removes_nothing_and_says_so() -> None:
    register_rule(MIXING, lambda flow: flow.gives(torch.cat([flow.channels()[:6]])))
    with pytest.raises(UsageError, match=f"the rule for {MIXING} does not hold"):
        find_groups(Mixed().eval(), IMAGE)


@pytest.mark.parametrize(
    "rule",
    [
        lambda flow: None,
        lambda flow: flow.gives(flow.channels()),
        lambda flow: flow.writes("weight", 1, flow.new(5)),
        lambda flow: flow.channels(input=3),
    ],
)
def test_a_rule_that_does_not_fit_is_refused(rule: own.OwnRule) -> None:
    register_rule(MIXING, rule)
    with pytest.raises(UsageError) as refused:
        find_groups(Mixed().eval(), IMAGE)
    assert (refused.value.code, refused.value.name) == ("bad-rule", MIXING)


def test_a_parameter_that_is_computed_stays() -> None:
    class Computed(Scaled):
        def forward(self, x: Tensor) -> Tensor:
            return self.last(torch.ops.dwindle_tests.scaled(self.first(x), self.gain.exp()))

    register_rule("dwindle_tests.scaled", scale_rule)
    with pytest.raises(UsageError) as refused:
        find_groups(Computed().eval(), IMAGE)
    assert refused.value.code == "nothing-to-prune"


def test_rules_are_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("dwindle_tests.scaled", "no_such_module:rule", own.GROUP)
    monkeypatch.setattr(own, "entries", lambda group: {entry.name: entry})
    with pytest.raises(UsageError) as refused:
        find_groups(Scaled().eval(), IMAGE)
    assert refused.value.code == "not-importable"
    monkeypatch.setattr(EntryPoint, "load", lambda self: scale_rule)
    assert units(halved(Scaled())[0]) == {"first": 8}


def test_only_a_function_is_a_rule() -> None:
    with pytest.raises(UsageError) as refused:
        register_rule("mylib.blur", "flow")  # type: ignore[arg-type]
    assert refused.value.code == "bad-rule"
