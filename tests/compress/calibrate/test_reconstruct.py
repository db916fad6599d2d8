from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dwindle.compress.blocks import Blocks
from dwindle.compress.calibrate.reconstruct import reconstruct, take_statistics
from dwindle.compress.channels import Channels
from dwindle.compress.masks import masks_hold, prunable
from dwindle.compress.n_of_m import NofM
from dwindle.compress.network import Granularity, Network
from dwindle.compress.recalibrate import recalibrate
from dwindle.errors import DwindleError, UsageError
from dwindle.models.attention import SlimMultiheadAttention
from dwindle.models.layerwise import collect as module
from dwindle.models.layerwise.collect import Batches
from dwindle.models.layerwise.parts import with_parts
from dwindle.models.layerwise.survey import Survey, survey
from dwindle.models.zoo import mobilenetv2, resnet8


def samples(count: int = 96, size: int = 8) -> tuple[Tensor, ...]:
    """Images with large and small structures, as photographs have them."""
    random = torch.Generator().manual_seed(3)
    coarse = torch.randn(count, 1, size // 4, size // 4, generator=random).repeat_interleave(4, 2)
    return (coarse.repeat_interleave(4, 3) + 0.3 * torch.randn(count, 1, size, size, generator=random),)


def fitted(model: nn.Module) -> nn.Module:
    """With batch norm statistics such as a trained network has them."""
    recalibrate(model, samples())
    return model.eval()


def autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 12, 3, stride=2, padding=1, dilation=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding="same", groups=3),
        nn.ReLU(), nn.ConvTranspose2d(12, 6, 4, stride=2, padding=1), nn.ReLU(), nn.Conv2d(6, 1, 1),
    )  # fmt: skip


class Transformer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.block = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.block(self.embed(images[:, 0])).mean(1))
        return logits


class Recurrent(nn.Module):
    """Reads an image's rows one after the other, from both ends."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(8, 12, bidirectional=True, batch_first=True)
        self.gru = nn.GRU(24, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        found = self.gru(self.lstm(images[:, 0])[0].transpose(0, 1))[1]
        logits: Tensor = self.head(found[0])
        return logits


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "resnet8": lambda: resnet8(num_classes=5, in_channels=1),
    "mobilenetv2": lambda: mobilenetv2(num_classes=5, in_channels=1),
    "autoencoder": autoencoder,
    "transformer": Transformer,
    "recurrent": Recurrent,
}


def pruned(dense: nn.Module, granularity: Granularity, share: float) -> Network:
    network = Network(copy.deepcopy(dense), tuple(tensor[:1] for tensor in samples()))
    granularity.shrink(network, share)
    return network


@torch.no_grad()
def distance(model: nn.Module, dense: nn.Module) -> float:
    """Of the outputs for samples that were not calibrated on, as a share of the dense ones' energy."""
    held_out = tuple(tensor[64:] for tensor in samples())
    wanted = dense.eval()(*held_out)
    return float((model.eval()(*held_out) - wanted).square().sum() / wanted.square().sum())


@pytest.mark.parametrize(
    ("name", "granularity"),
    [
        *(pytest.param(name, Blocks(), marks=[pytest.mark.slow] if name == "mobilenetv2" else []) for name in NETWORKS),
        ("resnet8", NofM(2, 4)),
        ("resnet8", Blocks(2, 1)),
    ],
)
def test_outputs_come_nearer_to_the_dense_networks(name: str, granularity: Granularity) -> None:
    torch.manual_seed(0)
    dense, inputs = fitted(NETWORKS[name]()), tuple(tensor[:64] for tensor in samples())
    before = copy.deepcopy(dense.state_dict())
    network = pruned(dense, granularity, 0.5)
    plain = copy.deepcopy(network.model)
    recalibrate(plain, inputs)
    heard: list[tuple[int, int]] = []
    found = reconstruct(network, dense, inputs, on_layer=lambda done, total, layer: heard.append((done, total)))
    assert distance(network.model, dense) < 0.8 * distance(plain, dense)
    assert masks_hold(network.model, network.masks)
    assert heard == [(index + 1, len(found.layers)) for index in range(len(found.layers))]
    assert all(layer.after <= layer.before for layer in found.layers)
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())


@pytest.mark.parametrize("name", ["resnet8"])
def test_a_network_without_channels_comes_nearer_too(name: str) -> None:
    torch.manual_seed(0)
    dense, inputs = fitted(NETWORKS[name]()), tuple(tensor[:64] for tensor in samples())
    network = pruned(dense, Channels(align=1), 0.6)
    assert network.kept
    plain = copy.deepcopy(network.model)
    recalibrate(plain, inputs)
    found = reconstruct(network, dense, inputs)
    assert not found.left
    assert distance(network.model, dense) < 0.8 * distance(plain, dense)


def test_attention_without_some_of_its_heads_is_solved() -> None:
    torch.manual_seed(0)
    dense = Transformer().eval()
    network = pruned(dense, Channels(align=1), 0.4)
    assert isinstance(network.model.get_submodule("block.self_attn"), SlimMultiheadAttention)
    plain = copy.deepcopy(network.model)
    found = reconstruct(network, dense, tuple(tensor[:64] for tensor in samples()))
    assert not found.left
    assert "block.self_attn.in_proj" in {layer.name for layer in found.layers}
    assert distance(network.model, dense) < distance(plain, dense)


def test_an_unpruned_network_stays_as_it_is() -> None:
    torch.manual_seed(0)
    dense = fitted(resnet8(num_classes=5, in_channels=1))
    network = Network(copy.deepcopy(dense))
    reconstruct(network, dense, samples())
    for name, tensor in network.model.state_dict().items():
        torch.testing.assert_close(tensor, dense.state_dict()[name], rtol=1e-2, atol=1e-3)


def test_batches_give_what_one_batch_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    dense, inputs = fitted(resnet8(num_classes=5, in_channels=1)), samples()
    whole, parts = pruned(dense, Blocks(), 0.3), pruned(dense, Blocks(), 0.3)
    reconstruct(whole, dense, inputs)
    monkeypatch.setattr(module, "BATCH", 160_000)
    monkeypatch.setattr(module, "CHUNK", 5_000)
    reconstruct(parts, dense, inputs)
    for name, tensor in parts.model.state_dict().items():
        torch.testing.assert_close(tensor, whole.model.state_dict()[name], rtol=1e-2, atol=1e-3)


def test_statistics_are_those_of_one_recalibration() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(60, 3, 5, 5) * 4 + 2
    mine, theirs = nn.BatchNorm2d(3), nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    nn.init.dirac_(theirs[0].weight)
    nn.init.zeros_(theirs[0].bias)
    recalibrate(theirs, (inputs,))
    take_statistics(mine, inputs.split(17))
    torch.testing.assert_close(mine.running_mean, theirs[1].running_mean)
    torch.testing.assert_close(mine.running_var, theirs[1].running_var)


def test_a_draw_of_the_positions_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    dense, inputs = fitted(resnet8(num_classes=5, in_channels=1)), samples()
    whole, drawn = pruned(dense, Blocks(), 0.3), pruned(dense, Blocks(), 0.3)
    reconstruct(whole, dense, inputs)
    monkeypatch.setattr(module, "FEWEST", 2_000)
    monkeypatch.setattr(module, "POSITIONS", 8)
    found = reconstruct(drawn, dense, inputs)
    assert found.layers[0].positions < 96 * 8 * 8
    assert distance(drawn.model, dense) < 1.3 * distance(whole.model, dense)


def test_a_wide_layer_sees_fewer_positions_for_each_of_its_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    dense, inputs = fitted(resnet8(num_classes=5, in_channels=1)), samples()
    whole, bounded = pruned(dense, Blocks(), 0.3), pruned(dense, Blocks(), 0.3)
    monkeypatch.setattr(module, "FEWEST", 100)
    before = reconstruct(whole, dense, inputs).layers
    monkeypatch.setattr(module, "WORK", 144**2 * 1_200)
    after = reconstruct(bounded, dense, inputs).layers
    first, wide = ([layer.positions for layer in after if layer.inputs == width] for width in (9, 144))
    assert first == [layer.positions for layer in before if layer.inputs == 9]
    assert all(1_200 <= positions < 1_300 for positions in wide)
    assert distance(bounded.model, dense) < 1.3 * distance(whole.model, dense)


def test_more_inputs_than_positions_are_said_and_do_no_harm() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 5))
    network, inputs = pruned(dense, Blocks(), 0.3), tuple(tensor[:32] for tensor in samples())
    plain = copy.deepcopy(network.model)
    found = reconstruct(network, dense, inputs)
    assert any("1: 64 and 32" in note for note in found.notes)
    assert distance(network.model, dense) < distance(plain, dense)


def test_samples_that_do_not_fit_in_memory_are_left_out_and_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    dense = fitted(resnet8(num_classes=5, in_channels=1))
    last = list(survey(dense, samples(), prunable(dense)).held.values())[-1]
    monkeypatch.setattr(module, "MOST", 20 * 2 * last)
    found = reconstruct(pruned(dense, Blocks(), 0.5), dense, samples())
    assert found.samples == 20
    assert any("20 of 96" in note for note in found.notes)


@pytest.mark.parametrize("name", ["resnet8", "autoencoder", "transformer", "recurrent"])
def test_samples_that_join_late_are_nearly_as_good(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    torch.manual_seed(0)
    dense, inputs = fitted(NETWORKS[name]()), tuple(tensor[:64] for tensor in samples())
    every = pruned(dense, Blocks(), 0.5)
    plain = copy.deepcopy(every.model)
    recalibrate(plain, inputs)
    reconstruct(every, dense, inputs)
    with with_parts(dense):
        held = survey(dense, inputs, prunable(dense)).held
    monkeypatch.setattr(module, "MOST", 2 * 64 * list(held.values())[-1])
    monkeypatch.setattr(module, "BATCH", 1)
    late, begun, most = pruned(dense, Blocks(), 0.5), list[int](), list[int]()
    late.model.register_forward_pre_hook(lambda _, args: begun.append(len(args[0])))
    found = reconstruct(late, dense, inputs, on_layer=lambda done, total, layer: most.append(sum(begun)))
    assert found.samples == 64
    assert not any("memory" in note for note in found.notes)
    room = [64 * list(held.values())[-1] // held[layer.name] for layer in found.layers]
    assert all(there <= max(2, fits) for there, fits in zip(most, room, strict=True))
    assert most[-1] == 64
    assert most[0] < 64 or held[found.layers[0].name] == held[found.layers[-1].name]
    assert distance(late.model, dense) < 0.5 * (distance(plain, dense) + distance(every.model, dense))
    assert masks_hold(late.model, late.masks)


def test_nothing_changes_where_all_samples_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    dense = fitted(resnet8(num_classes=5, in_channels=1))
    monkeypatch.setattr(module, "BATCH", 2**16)
    found, other = pruned(dense, Blocks(), 0.5), pruned(dense, Blocks(), 0.5)
    reconstruct(found, dense, samples())

    def all_at_once(inputs: tuple[Tensor, ...], found: Survey) -> Batches:
        count = math.ceil(len(inputs[0]) * max(found.held.values()) / module.BATCH)
        assert 1 < count < len(inputs[0]) / 2
        return Batches([(part,) for part in inputs[0].tensor_split(count)], len(inputs[0]), {}, None)

    monkeypatch.setattr("dwindle.compress.calibrate.reconstruct.batched", all_at_once)
    reconstruct(other, dense, samples())
    assert all(torch.equal(tensor, other.model.state_dict()[name]) for name, tensor in found.model.state_dict().items())


class Pair(nn.Module):
    """Takes two inputs, hands them on by name and in a dictionary, and gives a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(1, 8, 3, padding=1)
        self.pool, self.norm = nn.AvgPool2d(4), nn.BatchNorm2d(8)
        self.head = nn.Linear(32, 5)

    def both(self, maps: dict[str, Tensor]) -> Tensor:
        found: Tensor = self.first(input=maps["one"]).relu() + self.second(maps["other"]).relu()
        return found

    def forward(self, one: Tensor, other: Tensor) -> dict[str, Tensor]:
        mixed = self.norm(input=self.pool(self.both({"one": one, "other": other})))
        return {"logits": self.head(mixed.flatten(1))}


def test_networks_of_several_inputs_and_of_dictionaries_join_late_too(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    dense, inputs = Pair().eval(), (*samples(), samples()[0].flip(0))
    network = Network(copy.deepcopy(dense), tuple(tensor[:1] for tensor in inputs))
    Blocks().shrink(network, 0.5)
    plain = copy.deepcopy(network.model)
    held = survey(dense, inputs, prunable(dense)).held
    monkeypatch.setattr(module, "MOST", 2 * 96 * held["head"])
    begun: list[int] = []
    network.model.register_forward_pre_hook(lambda _, args: begun.append(len(args[0])))
    counts: dict[str, int] = {}
    found = reconstruct(network, dense, inputs, on_layer=lambda done, _, layer: counts.update({layer.name: sum(begun)}))
    assert counts["first"] < counts["head"] == found.samples == 96
    with torch.no_grad():
        wanted, solved, before = (model(*inputs)["logits"] for model in (dense, network.model.eval(), plain.eval()))
    assert (solved - wanted).square().sum() < (before - wanted).square().sum()


def test_weights_that_cannot_be_solved_are_named() -> None:
    torch.manual_seed(0)
    dense = Transformer().eval()
    twice = nn.Linear(16, 16)
    dense.embed = nn.Sequential(nn.Linear(8, 16), twice, twice)  # type: ignore[assignment]
    found = reconstruct(pruned(dense, Blocks(), 0.5), dense, samples())
    assert found.left.keys() == {"embed.1.weight"}
    assert [layer.name for layer in found.layers] == [
        "embed.0", "block.self_attn.in_proj", "block.self_attn.out_proj", "block.linear1", "block.linear2", "head",
    ]  # fmt: skip
    assert any("embed.1.weight" in note for note in found.notes)


def test_the_layer_that_meets_what_is_not_finite_is_named() -> None:
    dense = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 5))
    network = Network(copy.deepcopy(dense))
    with torch.no_grad():
        network.model.get_parameter("1.weight").fill_(float("inf"))
    with pytest.raises(DwindleError) as failed:
        reconstruct(network, dense, samples())
    assert failed.value.name == "3"


@pytest.mark.parametrize("inputs", [(torch.randn(1, 3),), (torch.randn(5, 3), torch.randn(4, 3)), (torch.ones(9, 3),)])
def test_samples_that_are_too_few_or_the_same_are_refused(inputs: tuple[Tensor, ...]) -> None:
    dense = nn.Linear(3, 2)
    with pytest.raises(UsageError):
        reconstruct(Network(copy.deepcopy(dense)), dense, inputs)
