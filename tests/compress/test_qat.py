from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from dwindle.compress.compression import compress
from dwindle.compress.masks import mask_applier, prunable
from dwindle.compress.qat import Rounding, first_step
from dwindle.compress.qat_palette import by_palette
from dwindle.compress.request import Request
from dwindle.errors import UsageError
from dwindle.export.codes.palette import levels
from dwindle.export.executorch.int8 import int8_weights
from dwindle.export.fold import deployable, tensors
from dwindle.export.quantize import quantized, store, stored
from dwindle.export.targets import load
from dwindle.export.w8a8 import Form, quantize
from dwindle.models.signature import flat, signature_of

INPUTS = (torch.randn(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)),)


def network() -> nn.Module:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16),
        nn.BatchNorm2d(16), nn.ConvTranspose2d(16, 12, 3), nn.BatchNorm2d(12), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        nn.Linear(108, 5),
    )  # fmt: skip
    with torch.no_grad():
        for module in made:
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(-1.5, 1.5)
    return made.eval()


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_between_steps_a_network_has_the_weights_of_its_file(precision: str) -> None:
    model = network()
    folded = deployable(model, INPUTS)
    shipped = tensors(quantized(folded, stored(folded, precision)))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rounding = Rounding(model, INPUTS, load("onnx", precision))
    rounding.round()
    held, changed = tensors(deployable(model, INPUTS)), 0
    for name, tensor in held.items():
        if tensor.dim() > 1:
            assert torch.allclose(tensor, shipped[name], rtol=1e-5, atol=1e-7), name
            changed += not torch.equal(model.state_dict()[name], before[name])
    assert changed == 4
    rounding.absorb()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    rounding.absorb()  # a second time there is nothing to take in
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_what_stays_float_in_executorchs_int8_files_is_not_rounded_in_training() -> None:
    class Transposed(nn.Module):
        """A linear layer as GPT-2 has it, with a scale for each column of its weight."""

        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(12, 20)), nn.Parameter(torch.zeros(20))

        def forward(self, x: Tensor) -> Tensor:
            return torch.addmm(self.bias, x, self.weight)

    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 12, 3, bias=False), nn.BatchNorm2d(12), nn.Conv2d(12, 12, 3, groups=12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), Transposed(), nn.ReLU(), nn.Linear(20, 5),
    ).eval()  # fmt: skip
    file = tensors(int8_weights(deployable(model, INPUTS), INPUTS).weights_only)
    before = {name: tensor.clone() for name, tensor in model.named_parameters()}
    Rounding(model, INPUTS, load("executorch", "int8")).round()
    changed = {name for name, tensor in model.named_parameters() if not torch.equal(tensor, before[name])}
    assert changed == {"0.weight", "6.weight", "8.weight"}
    for name, tensor in tensors(deployable(model, INPUTS)).items():
        if tensor.dim() > 1:
            assert torch.allclose(tensor, file[name], rtol=1e-5, atol=1e-7), name


class Adds(nn.Module):
    """Two convolutions of one input, of which files have one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3)
        self.large, self.small = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        answer: Tensor = (self.large(x) + self.small(x)).relu().mean((2, 3))
        return answer


def test_branches_that_a_file_holds_as_one_are_not_rounded_one_by_one() -> None:
    model = Adds().eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Rounding(model, INPUTS, load("onnx", "int8")).round()
    assert {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])} == {
        "first.weight"
    }


def test_exact_weights_take_what_a_step_changes_of_rounded_ones() -> None:
    model = network()
    rounding, weight = Rounding(model, INPUTS, load("onnx", "int8")), model.get_parameter("0.weight")
    before = weight.detach().clone()
    rounding.round()
    with torch.no_grad():
        weight.sub_(1e-5)  # far less than a step of int8, and would be lost in it
    rounding.absorb()
    assert torch.allclose(weight, before - 1e-5, atol=1e-7)


def test_weights_that_a_training_ends_by_loading_are_taken_as_they_are() -> None:
    model = network()
    rounding = Rounding(model, INPUTS, load("onnx", "int4"))
    before, loaded = model[3].weight.detach().clone(), torch.full_like(model[0].weight, 0.1234)
    rounding.round()
    with torch.no_grad():
        model[0].weight.copy_(loaded)  # an average of the steps before, or the best epoch
    rounding.close()
    assert torch.equal(model[0].weight, loaded)
    assert torch.equal(model[3].weight, before)


def test_pruned_weights_stay_zero_while_rounded() -> None:
    model = network()
    masks = {name: torch.rand_like(weight) < 0.3 for name, weight in prunable(model).items()}
    masks["0.weight"][2] = False  # a row without survivors
    mask_applier(model, masks)()
    Rounding(model, INPUTS, load("onnx", "int4")).round()
    for name, mask in masks.items():
        weight = model.get_parameter(name)
        assert weight.isfinite().all()
        assert not weight[~mask].any()


def test_the_last_share_of_the_steps_is_rounded() -> None:
    assert [first_step(share, 10) for share in (0.0, 0.25, 0.3, 1.0)] == [10, 7, 7, 0]


@pytest.mark.parametrize(
    ("options", "code"), [({"precision": "fp16"}, "conflict"), ({"precision": "int8", "qat": 1.5}, "out-of-range")]
)
def test_what_cannot_be_trained_through_is_refused(tmp_path: Path, options: dict[str, object], code: str) -> None:
    asked = Request("zoo:resnet8", {"data": "digits", "epochs": 1}, size=20_000, **{"qat": 0.5, **options})  # type: ignore[arg-type]
    with pytest.raises(UsageError) as refused:
        compress(asked, tmp_path / "net.dwindle")
    assert (refused.value.code, refused.value.option) == (code, "qat")


def plain() -> nn.Module:
    """Layers whose inputs and outputs are all that int8 rounds, in training mode."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(),
        nn.Linear(96, 5),
    )  # fmt: skip


def test_at_w8a8_layers_read_what_they_will_read_in_the_file() -> None:
    samples = torch.randn(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    model = plain()
    model(samples)
    exact = model.eval()(samples)
    made = quantize(deployable(model, INPUTS), (samples,), Form(whole=True))
    file = torch.cat([made.program(sample) for sample in samples.split(1)])
    rounding = Rounding(model, INPUTS, load("onnx", "w8a8"))
    rounding.round()
    trained_through = model(samples)
    rounding.close()
    assert torch.equal(model(samples), exact)
    # What is left is the rounding of the outputs, and of a range that a few more samples would widen.
    assert (trained_through - file).square().mean() < (exact - file).square().mean() / 2
    weights = tensors(made.weights_only)
    rounding.round()
    for name in ("0.weight", "3.weight", "6.weight"):
        assert torch.allclose(tensors(deployable(model, INPUTS))[name], weights[name], rtol=1e-5, atol=1e-7)


def test_at_w8a8_a_recurrent_cell_reads_a_rounded_state_too() -> None:
    class Stepping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.along, self.cell, self.last = nn.Conv1d(6, 8, 3), nn.LSTMCell(8, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor, hidden: Tensor, cell: Tensor) -> Tensor:
            hidden, _ = self.cell(self.along(x).relu().squeeze(-1), (hidden, cell))
            out: Tensor = self.last(hidden)
            return out

    torch.manual_seed(0)
    model, samples = Stepping().eval(), (torch.randn(64, 6, 3), 3 * torch.randn(64, 8), 3 * torch.randn(64, 8))
    one = tuple(tensor[:1] for tensor in samples)
    network, exact = flat(model, signature_of(model, one)), model(*samples)
    made = quantize(deployable(network, one), samples, Form(whole=True))
    read: list[Tensor] = []
    rounding = Rounding(network, one, load("onnx", "w8a8"))
    rounding.round()
    model.cell.register_forward_pre_hook(lambda _, given: read.extend((given[0], *given[1])))
    model(*samples)
    held = tensors(network)
    for name, weights in tensors(made.weights_only).items():
        assert weights.dim() < 2 or torch.allclose(held[name], weights, rtol=1e-5, atol=1e-7)
    rounding.close()
    assert torch.equal(model(*samples), exact)
    assert [len(given.unique()) <= 256 < given.numel() for given in read[:3]] == [True] * 3


def test_gradients_pass_straight_through_rounded_activations() -> None:
    model = plain().train()
    rounding = Rounding(model, INPUTS, load("onnx", "w8a8"))
    rounding.round()
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert all(one.grad is not None and one.grad.abs().sum() > 0 for one in model.parameters())


def test_batch_norm_is_frozen_while_its_scale_is_rounded_and_free_afterwards() -> None:
    model = plain().train()
    norm = model.get_submodule("1")
    rounding = Rounding(model, INPUTS, load("onnx", "int8"))
    rounding.round(frozen=False)
    first = norm.get_buffer("running_mean").clone()
    model(torch.randn(4, 3, 8, 8))
    assert not torch.equal(norm.get_buffer("running_mean"), first)
    rounding.absorb()
    rounding.round()
    before = {name: tensor.clone() for name, tensor in norm.named_buffers()}
    model.train()  # as a task does at the start of an epoch
    model(torch.randn(4, 3, 8, 8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in norm.named_buffers())
    rounding.close()
    assert norm.training
    model(torch.randn(4, 3, 8, 8))
    assert not torch.equal(norm.get_buffer("running_mean"), before["running_mean"])
    hooks = [hook for module in model.modules() for hook in module._forward_pre_hooks.values()]
    assert not hooks


@pytest.mark.parametrize("bits", [1, 2, 3, 4])
@pytest.mark.parametrize(("middle", "spread"), [(0.0, 0.0), (0.0, 2.0), (-3.0, 2.5), (2.0, 3.0)])
def test_a_palette_in_training_is_that_of_the_file(bits: int, middle: float, spread: float) -> None:
    """With the last two fp16 wouldn't hold each product of a scale and a value."""
    generator = torch.Generator().manual_seed(bits)
    rows = torch.randn(24, 90, generator=generator) * torch.logspace(middle - spread, middle + spread, 24)[:, None]
    rows = rows.clamp(-60000, 60000)
    rows *= torch.rand(rows.shape, generator=generator) < 0.4
    rounded = by_palette(rows, bits)
    assert not rounded[rows == 0].any()
    assert bits == 4 or rounded[rows != 0].all()  # zero is outside the palette
    file = torch.from_numpy(store("w", rows.numpy(), f"palette{bits}").decoded())
    assert len(rounded[0].unique()) <= levels(bits) + 1
    torch.testing.assert_close(rounded, file, rtol=0, atol=0)  # what is trained is what ships


def test_of_fewer_survivors_than_values_each_keeps_its_own() -> None:
    rows = torch.zeros(8, 64)
    rows[0, :3] = torch.tensor([0.5, -0.25, 2.0])
    assert torch.equal(by_palette(rows, 2), rows)


@pytest.mark.slow
def test_training_through_a_palette_wins_back_what_rounding_loses() -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 64)
    y = torch.tanh(x @ torch.randn(64, 4) / 8)
    model = nn.Sequential(
        nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 96), nn.ReLU(), nn.Linear(96, 64), nn.ReLU(), nn.Linear(64, 4)
    )

    def train(steps: int, rate: float, rounding: Rounding | None) -> None:
        optimizer = torch.optim.Adam(model.parameters(), rate)
        decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1, 0.01, steps)
        for _ in range(steps):
            if rounding:
                rounding.round()
            optimizer.zero_grad()
            nn.functional.mse_loss(model(x), y).backward()
            optimizer.step()
            decay.step()
            if rounding:
                rounding.absorb()

    def loss_of_file() -> float:
        shipped = deployable(model, (x[:1],))
        return float(nn.functional.mse_loss(quantized(shipped, stored(shipped, "palette1"))(x), y))

    train(200, 5e-3, None)
    before = loss_of_file()
    rounding = Rounding(model, (x[:1],), load("onnx", "palette1"))
    train(100, 2e-3, rounding)
    rounding.close()
    assert loss_of_file() < before / 4


@pytest.mark.slow
@given(st.lists(st.floats(-50, 50, width=32), min_size=1, max_size=40))
def test_activations_become_the_values_of_torchs_own_operator(values: list[float]) -> None:
    layer, x = nn.Linear(1, 1), torch.tensor(values)[:, None].requires_grad_()
    rounding = Rounding(nn.Sequential(layer), (x[:1].detach(),), load("onnx", "w8a8"))
    rounding.round()
    seen: list[Tensor] = []
    layer.register_forward_pre_hook(lambda _, read: seen.append(read[0]))
    layer(x)
    rounding.close()
    low, high = min(0.0, *values), max(0.0, *values)
    scale = max((high - low) / 255, 2**-12)
    zero = max(-128, min(127, round(-128 - low / scale)))
    expected = torch.fake_quantize_per_tensor_affine(x, scale, zero, -128, 127)
    codes = x.detach() / scale
    tie = (codes - codes.floor() - 0.5).abs() < 1e-3  # may be rounded either way
    assert torch.where(tie, 0, seen[0] - expected).abs().max() <= 1e-5 * max(-low, high)
    assert (seen[0] - x).abs().max() <= 0.5001 * scale
    (slope,) = torch.autograd.grad(seen[0].sum(), x)
    assert torch.equal(slope, torch.ones_like(x))


def test_activations_that_are_not_all_finite_are_rounded_over_those_that_are() -> None:
    model, x = plain(), torch.rand(2, 3, 8, 8)
    x[0, 0, 0, 0], x[1, 2, 3, 3] = torch.inf, -torch.inf
    seen: list[torch.Tensor] = []
    rounding = Rounding(model, (x[:1].nan_to_num(0, 0, 0),), load("onnx", "w8a8"))
    rounding.round()
    model[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    model(x)
    model[0](torch.full((1, 3, 8, 8), torch.inf))  # without a finite value the range is empty
    rounding.close()
    rounded, finite = seen[0], x[x.isfinite()]
    assert rounded.isfinite().all()
    assert rounded.max() <= finite.max() + 1 / 255
    assert (rounded[x.isfinite()] - finite).abs().max() <= finite.max() / 255
    assert not seen[1].any()


@pytest.mark.parametrize("precision", ["int8", "palette2", "w8a8"])
def test_a_layer_of_zeros_and_one_that_is_never_called_stay_as_they_are(precision: str) -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.dead, self.head, self.unused = nn.Linear(80, 80), nn.Linear(80, 80), nn.Linear(80, 80)
            nn.init.zeros_(self.dead.weight)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.head(self.dead(x))
            return out

    torch.manual_seed(0)
    model, x = Branching(), torch.randn(4, 80)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rounding = Rounding(model, (x[:1],), load("onnx", precision))
    rounding.round()
    assert not model.dead.weight.any()
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    assert model(x).isfinite().all()
    rounding.close()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_task_that_trains_another_model_than_it_is_given_is_refused() -> None:
    model = plain()
    rounding, other = Rounding(model, INPUTS, load("onnx", "int8")), plain()
    optimizer = torch.optim.SGD(other.parameters(), 0.1)

    def fit() -> None:
        for _ in range(20):
            rounding.round()
            optimizer.zero_grad()
            other(torch.rand(2, 3, 8, 8)).sum().backward()
            optimizer.step()
            rounding.absorb()

    with pytest.raises(UsageError) as refused:
        fit()
    assert (refused.value.code, refused.value.option, refused.value.name) == ("rebuilt-model", "qat", "fit")


def test_a_learning_rate_of_nought_for_a_step_is_no_other_model() -> None:
    model = plain()
    rounding, optimizer = Rounding(model, INPUTS, load("onnx", "int8")), torch.optim.SGD(model.parameters(), 0.1)
    for step in range(20):
        rounding.round()
        optimizer.param_groups[0]["lr"] = 0.1 if step == 2 else 0.0
        optimizer.zero_grad()
        model(torch.rand(2, 3, 8, 8)).sum().backward()
        optimizer.step()
        rounding.absorb()
    rounding.close()
