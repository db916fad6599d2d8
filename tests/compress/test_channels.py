"""Channels through the whole loop: cut between rounds, momentum carried along, rebuilt without the engine."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dwindle.checkpoint import Checkpoint
from dwindle.compress import Request, compress
from dwindle.compress.channels import Channels, carry, compose, cut_by
from dwindle.compress.network import Network
from dwindle.compress.watcher import Watcher
from dwindle.errors import BudgetMissed
from dwindle.models.build import restore, restore_dense
from dwindle.models.classify import ImageClassification
from dwindle.models.tasks import restore_task
from dwindle.models.zoo import resnet8

DIGITS = {"data": "digits", "epochs": 2, "batch_size": 128}
pytestmark = pytest.mark.usefixtures("one_model")
HALF = Request("zoo:resnet8", DIGITS, macs="50%", align=4, prune_per_round=0.3)


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return compress(HALF, tmp_path_factory.mktemp("half") / "net.dwindle")


@pytest.mark.slow
def test_macs_are_met_and_fall_with_every_round(half: Checkpoint) -> None:
    macs = [record.macs or 0 for record in half.history]
    assert macs == sorted(macs, reverse=True)
    assert 0.35 * macs[0] < macs[-1] <= 0.5 * macs[0]
    assert half.history[-1].density < 0.8
    assert half.structure["shapes"]
    assert not half.masks


@pytest.mark.slow
def test_no_channel_that_can_go_without_a_loss_leads_back_to_the_dense_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def every_channel_counts(task: ImageClassification, model: nn.Module, split: str) -> float:
        return sum(parameter.numel() for parameter in model.parameters()) / 1e4

    monkeypatch.setattr(ImageClassification, "evaluate", every_channel_counts)
    request = Request("zoo:resnet8", DIGITS, granularity="channel", max_drop=0.0, prune_per_round=0.9)
    with pytest.raises(BudgetMissed) as raised:
        compress(request, tmp_path / "net.dwindle")
    assert raised.value.option == "max_drop"


@pytest.mark.slow
def test_the_slimmed_network_comes_back_bit_equal_and_trainable(half: Checkpoint) -> None:
    network, task = restore(half), restore_task(half)
    assert task.evaluate(network, "validation") == half.history[-1].validation
    assert task.evaluate(restore_dense(half), "validation") == half.history[0].validation
    task.fit(network, start=0.9, on_step=lambda loss: None)
    widths = {tuple(p.shape) for p in network.parameters()}
    assert all(shape[0] % 4 == 0 or shape[0] == 10 for shape in widths)


class CutOff(Watcher):
    def step(self, index: int, done: int, total: int | None, loss: float) -> None:
        if (index, done) == (2, 5):
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_killed_run_resumes_on_the_smaller_network(half: Checkpoint, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        compress(HALF, tmp_path / "net.dwindle", CutOff())
    resumed = compress(HALF, tmp_path / "net.dwindle")
    assert resumed.history[-1].validation == half.history[-1].validation
    assert resumed.uncut == half.uncut
    assert "classifier" in {left.layer for left in half.uncut}, "an output of the model can't be cut"
    assert all(torch.equal(value, half.weights[name]) for name, value in resumed.weights.items())


@pytest.mark.slow
def test_weight_rewinding_goes_back_under_the_cuts(tmp_path: Path) -> None:
    request = Request(
        "zoo:resnet8", {**DIGITS, "epochs": 1}, macs="60%", method="weight-rewind", rewind_to=0.5, prune_per_round=0.25
    )
    done = compress(request, tmp_path / "net.dwindle")
    assert (done.history[-1].macs or 0) <= 0.6 * (done.history[0].macs or 0)


@pytest.mark.slow
def test_channels_first_then_weights_inside_what_is_left(tmp_path: Path) -> None:
    request = Request(
        "zoo:resnet8",
        {**DIGITS, "epochs": 1},
        granularity="channel+unstructured",
        macs="60%",
        density=0.3,
        prune_per_round=0.5,
    )
    done = compress(request, tmp_path / "net.dwindle")
    assert (done.history[-1].macs or 0) <= 0.6 * (done.history[0].macs or 0)
    assert done.masks
    assert done.structure["shapes"]
    network = restore(done)
    weights = dict(network.named_parameters())
    assert all(not weights[name][~mask].any() for name, mask in done.masks.items())


@pytest.mark.slow
def test_the_smallest_file_within_a_drop_has_fewer_channels_and_zeros_in_few_bits(tmp_path: Path) -> None:
    request = Request(
        "zoo:resnet8",
        {**DIGITS, "epochs": 4},
        target="coreml",
        granularity="channel+unstructured",
        precision="palette3",
        max_drop=40.0,
        prune_per_round=0.5,
        qat=0.3,
    )
    done = compress(request, tmp_path / "net.dwindle")
    first, last = done.history[0], done.history[-1]
    assert first.validation - last.validation <= 40
    assert (last.macs or 0) < (first.macs or 0)
    network = restore(done)
    assert done.masks
    assert any((weight == 0).any() for name, weight in network.named_parameters() if name in done.masks)
    assert (last.bytes or 0) < (first.bytes or 0) / 2


def test_momentum_is_cut_by_the_indices_of_its_parameter() -> None:
    torch.manual_seed(0)
    network = Network(resnet8(10, 1), (torch.zeros(1, 1, 8, 8),))
    before = network.model
    for optimizer in (
        torch.optim.SGD(before.parameters(), lr=0.1, momentum=0.9),
        torch.optim.AdamW(before.parameters(), lr=0.1),
    ):
        network.model = before
        network.kept = {}
        before(torch.randn(4, 1, 8, 8)).square().sum().backward()
        optimizer.step()
        with torch.no_grad():  # make every state tensor say where it came from
            for state in optimizer.state.values():
                for value in state.values():
                    if torch.is_tensor(value) and value.dim():
                        value.copy_(torch.arange(value.numel()).reshape(value.shape))
        keep = Channels(align=4).shrink(network, 0.5)
        assert keep is not None
        carry(optimizer, before, network.model, keep)
        names = {id(p): name for name, p in network.model.named_parameters()}
        whole = dict(before.named_parameters())
        held = [p for group in optimizer.param_groups for p in group["params"]]
        assert {id(p) for p in held} == set(names)
        for parameter in held:
            for value in optimizer.state[parameter].values():
                if torch.is_tensor(value) and value.dim():
                    name = names[id(parameter)]
                    numbered = torch.arange(whole[name].numel()).reshape(whole[name].shape).float()
                    assert torch.equal(value, cut_by(network.kept, {name: numbered})[name])


def test_cuts_compose() -> None:
    network = Network(resnet8(10, 1), (torch.zeros(1, 1, 8, 8),))
    dense = {name: value.clone() for name, value in network.model.state_dict().items()}
    for share in (0.7, 0.4):
        Channels(align=1).shrink(network, share)
    again = cut_by(network.kept, dense)
    assert all(torch.equal(value, again[name]) for name, value in network.model.state_dict().items())
    assert compose({}, Channels(align=1).shrink(network, 0.3)) != {}  # type: ignore[arg-type]


def test_excluded_layers_keep_their_channels() -> None:
    network = Network(resnet8(10, 1), (torch.zeros(1, 1, 8, 8),))
    from dwindle.compress.layers import Layers

    Channels(align=1, layers=Layers(exclude=("stage1.0.conv1",))).shrink(network, 0.4)
    layers = dict(network.model.named_modules())
    assert isinstance(layers["stage1.0.conv1"], nn.Conv2d)
    assert layers["stage1.0.conv1"].out_channels == 16


@pytest.mark.parametrize("share", [0.7, 0.3, 0.05])
def test_shares_can_be_of_the_parameters(share: float) -> None:
    torch.manual_seed(0)
    network = Network(resnet8(in_channels=1).eval(), inputs=(torch.zeros(1, 1, 8, 8),))
    pruning = Channels(align=1, counts="parameters")
    pruning.shrink(network, share)
    left = sum(parameter.numel() for parameter in network.model.parameters())
    whole = sum(parameter.numel() for parameter in resnet8(in_channels=1).parameters())
    assert pruning.share(network) == left / whole
    assert share - 0.01 <= left / whole <= share


@pytest.mark.slow
def test_no_layer_falls_below_its_floor_over_several_cuts() -> None:
    torch.manual_seed(0)
    network = Network(resnet8(in_channels=1).eval(), inputs=(torch.zeros(1, 1, 8, 8),))
    with torch.no_grad():
        network.model.stage3[0].conv1.weight[3:] *= 1e-6  # by its scores it would keep three
    free = network.copy()
    Channels(align=1).shrink(free, 0.3)
    for share in (0.7, 0.5, 0.3):
        Channels(align=1, layer_floor=0.25).shrink(network, share)
    for name, width in widths(network).items():
        assert width >= 0.25 * network.dense_shapes[f"{name}.weight"][0]
    assert widths(network)["stage3.0.conv1"] == 16
    assert widths(free)["stage3.0.conv1"] < 16


def widths(network: Network) -> dict[str, int]:
    modules = network.model.named_modules()
    return {name: module.out_channels for name, module in modules if isinstance(module, nn.Conv2d)}
