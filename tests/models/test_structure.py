"""structure.json: back to the same network, or a refusal that changes nothing."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dwindle.compress.surgery.choice import cut, find_groups
from dwindle.errors import CheckpointError
from dwindle.models.structure import describe, rebuild, tensors


class Net(nn.Module):
    """Grouped and depthwise layers, heads, tied weights, buffers that a state_dict has and one that it hasn't."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.depthwise = nn.Conv2d(16, 32, 3, padding=1, groups=16)
        self.norm = nn.BatchNorm2d(32)
        self.register_buffer("offset", torch.randn(32, 1, 1), persistent=False)
        self.tokens = nn.Conv2d(32, 24, 4, 4)
        self.layer_norm, self.attention = nn.LayerNorm(24), nn.MultiheadAttention(24, 6, batch_first=True)
        self.up, self.again, self.head = nn.Linear(24, 24), nn.Linear(24, 24), nn.Linear(24, 5)
        self.again.weight = self.up.weight
        self.label = "not a size"

    def forward(self, x: Tensor) -> Tensor:
        x = self.tokens((self.norm(self.depthwise(self.conv(x))) + self.offset).relu()).flatten(2).transpose(1, 2)
        x = self.layer_norm(x)
        x = x + self.attention(x, x, x, need_weights=False)[0]
        return self.head(x + self.again(self.up(x)))


IMAGE = (torch.randn(1, 3, 8, 8),)


@pytest.fixture(scope="module")
def slim() -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = Net().eval()
    with torch.no_grad():
        model.norm.running_mean.normal_()
    for _ in range(2):
        found = find_groups(model, IMAGE)
        model = cut(model, found.keep([torch.arange(0, group.units, 2) for group in found.groups]))
    model.conv.weight.requires_grad_(False)  # before, it would not have been cut
    assert (model.conv.out_channels, model.depthwise.groups, model.attention.num_heads) == (4, 4, 2)
    return model


def through_json(slim: nn.Module) -> dict[str, Any]:
    return json.loads(json.dumps(describe(slim, Net())))


def test_it_comes_back_bit_equal_trainable_and_exportable(slim: nn.Module, tmp_path: Path) -> None:
    save_file({name: tensor.contiguous() for name, tensor in tensors(slim).items()}, tmp_path / "weights.safetensors")
    back = rebuild(through_json(slim), Net(), load_file(tmp_path / "weights.safetensors")).eval()
    assert torch.equal(back(*IMAGE), slim(*IMAGE))
    assert torch.equal(back.offset, slim.offset)
    assert len(back.offset) == 8
    assert back.again.weight is back.up.weight
    assert not back.conv.weight.requires_grad
    assert back.conv.bias.requires_grad
    assert [repr(m) for m in back.modules()] == [repr(m) for m in slim.modules()]
    back.train()(*IMAGE).sum().backward()
    assert back.attention.in_proj_weight.grad is not None
    with torch.no_grad():
        program = torch.export.export(back.eval(), IMAGE)
        torch.testing.assert_close(program.module()(*IMAGE), back(*IMAGE))
    assert describe(back, Net()) == describe(slim, Net())


def test_a_state_dict_will_do_where_hidden_buffers_kept_their_size() -> None:
    model = Net().eval()
    found = find_groups(model, IMAGE)
    kept = [torch.arange(g.units if g.name == "conv" else g.units // 2) for g in found.groups]
    small = cut(model, found.keep(kept))
    fresh = Net().eval()
    fresh.offset.copy_(model.offset)
    assert torch.equal(rebuild(describe(small, Net()), fresh, small.state_dict())(*IMAGE), small(*IMAGE))


def test_nothing_cut_is_described_by_nothing() -> None:
    model = Net()
    assert describe(model, Net()) == {"attributes": {}, "shapes": {}, "frozen": []}
    assert torch.equal(rebuild({}, Net(), tensors(model)).eval()(*IMAGE), model.eval()(*IMAGE))


@pytest.mark.slow
def test_neither_the_engine_nor_pickle_is_needed() -> None:
    check = "import sys, dwindle.models.structure; print([m for m in sys.modules if m.startswith('dwindle.compress')])"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout == "[]\n"


def changed(document: dict[str, Any], *path: Any, to: Any) -> dict[str, Any]:
    document = copy.deepcopy(document)
    *parents, last = path
    part = document
    for key in parents:
        part = part.setdefault(key, {})
    part[last] = to
    return document


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            ("attributes", "conv", "out_channels"),
            99,
            "attribute out_channels of layer 'conv' 99, which is no part of 16",
        ),
        (("attributes", "conv", "out_channels"), 0, "which is no part of 16"),
        (("attributes", "conv", "out_channels"), -4, "which is no part of 16"),
        (("attributes", "conv", "out_channels"), "4", "which is no part of 16"),
        (("attributes", "conv", "out_channels"), True, "which is no part of 16"),
        (("attributes", "conv", "kernel_size"), [3], r"which is no part of \[3, 3\]"),
        (("attributes", "conv", "forward"), 4, "attribute forward of layer 'conv', which the model doesn't have"),
        (("attributes", "conv", "__class__"), 4, "which the model doesn't have"),
        (("attributes", "", "label"), 1, "attribute label of layer '', which the model doesn't have"),
        (("attributes", "nowhere", "out_channels"), 4, "which the model doesn't have"),
        (("shapes", "conv.weight"), [4, 3, 3], "which is no part of"),
        (("shapes", "conv.weight"), [4, 3, 3, 5], "which is no part of"),
        (("shapes", "conv.weight"), [5, 3, 3, 3], "the weights have conv.weight as"),
        (("shapes", "nowhere"), [4], "which the model doesn't have"),
        (("shapes",), ["conv.weight"], "not one that this version"),
        (("attributes",), {"conv": [1]}, "not one that this version"),
        (("frozen",), ["nowhere"], "parameter nowhere, which the model doesn't have"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(slim: nn.Module, path: Any, value: Any, message: str) -> None:
    fresh = Net()
    before = tensors(copy.deepcopy(fresh))
    with pytest.raises(CheckpointError, match=message):
        rebuild(changed(through_json(slim), *path, to=value), fresh, tensors(slim))
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(fresh).items())


def test_tensors_that_do_not_fit_are_refused(slim: nn.Module) -> None:
    structure, state = through_json(slim), tensors(slim)
    without = {name: tensor for name, tensor in state.items() if name != "norm.running_var"}
    with pytest.raises(CheckpointError, match=r"the weights lack norm\.running_var"):
        rebuild(structure, Net(), without)
    with pytest.raises(CheckpointError, match="the weights lack offset"):
        rebuild(structure, Net(), slim.state_dict())
    with pytest.raises(CheckpointError, match="tensors that the model doesn't have: stranger"):
        rebuild(structure, Net(), {**state, "stranger": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"conv.bias as torch\.float64 .* needs torch\.float32"):
        rebuild(structure, Net(), {**state, "conv.bias": state["conv.bias"].double()})
    with pytest.raises(CheckpointError, match=r"head.weight as .* of shape \[5, 24\], the model needs .*\[5, 20\]"):
        rebuild(changed(structure, "shapes", "head.weight", to=[5, 20]), Net(), state)


def test_another_architecture_is_not_described(slim: nn.Module) -> None:
    more, other = Net(), Net()
    more.extra = nn.Linear(1, 1)
    other.norm = nn.InstanceNorm2d(32)
    with pytest.raises(CheckpointError, match="other layers than a fresh one: extra"):
        describe(more, Net())
    with pytest.raises(CheckpointError, match="layer 'norm' has become a InstanceNorm2d"):
        describe(other, Net())
    wider = Net()
    wider.head.out_features = 9
    with pytest.raises(CheckpointError, match="no part of 5"):
        describe(wider, Net())
