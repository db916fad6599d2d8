from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dwindle.compress.masks import mask_applier, masks_hold, prunable
from dwindle.errors import CheckpointError, UsageError
from dwindle.models.checked_task import CheckedTask
from dwindle.models.classify import ImageClassification, TaskSpec
from dwindle.models.data import Splits, Subset
from dwindle.models.datasets import load
from dwindle.models.task_members import OPTIONAL
from dwindle.models.zoo import ZOO

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 64, "crop": 1, "flip": False, "schedule": "cosine"}


@pytest.fixture(scope="module")
def digits() -> Splits:
    return load("digits")


@pytest.fixture(scope="module")
def few(digits: Splits) -> Splits:
    """So few that an epoch is four steps."""
    chosen = torch.arange(256)
    return replace(digits, train=digits.train[chosen], validation=digits.validation[chosen])


def _task(splits: Splits, **changes: Any) -> ImageClassification:
    return ImageClassification(TaskSpec("digits", **{**QUICK, **changes}), splits)


def _network(seed: int = 0, *, dropout: bool = False) -> nn.Module:
    torch.manual_seed(seed)
    network = ZOO["resnet8"](in_channels=1)
    if dropout:
        network.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Dropout())
    return network


def _fit(task: ImageClassification, network: nn.Module, start: float = 0.0) -> list[float]:
    losses: list[float] = []
    task.fit(network, start=start, on_step=losses.append)
    return losses


def _same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_learns_digits_and_is_a_task(digits: Splits) -> None:
    task, network = _task(digits, epochs=8), _network()
    losses = _fit(task, network)
    absent = {name for name in OPTIONAL if not CheckedTask(task).has(name)}
    assert absent == {"states", "pixel_classes"}  # images are no stream, and have one class each
    assert CheckedTask(task).takes_last_lr
    assert len(losses) == task.steps == 8 * (1079 // 64)
    assert task.evaluate(network, "validation") > 95
    assert task.evaluate(network, "test") > 95


@pytest.mark.parametrize("bf16", ["0", pytest.param("1", marks=pytest.mark.slow)])
@pytest.mark.parametrize("start", [0.0, 0.5])
def test_resumed_is_the_same_bit_for_bit(few: Splits, monkeypatch: pytest.MonkeyPatch, bf16: str, start: float) -> None:
    monkeypatch.setenv("DWINDLE_BF16", bf16)
    task, network = _task(few), _network(dropout=True)
    _fit(task, network)
    saved_task, saved_network = task.state_dict(), {k: v.clone() for k, v in network.state_dict().items()}
    losses = _fit(task, network, start)

    torch.manual_seed(99)
    other_task, other = _task(few), _network(seed=5, dropout=True)
    other.load_state_dict(saved_network)
    other_task.load_state_dict(saved_task, other)
    assert _fit(other_task, other, start) == losses
    assert _same(other.state_dict(), network.state_dict())
    assert _same(other_task.state_dict(), task.state_dict())

    cut_off = _task(few)
    other.load_state_dict(saved_network)
    assert _fit(cut_off, other, start) != losses  # the state matters


def _fit_noting(task: ImageClassification, network: nn.Module, cut_at: int) -> tuple[list[float], dict[str, Any]]:
    """Every loss of a training, and the states of the task and the network after so many steps of it."""
    saved: dict[str, Any] = {}
    losses: list[float] = []

    def on_step(loss: float) -> None:
        losses.append(loss)
        if len(losses) == cut_at:
            saved["task"] = task.state_dict()
            saved["network"] = {name: value.clone() for name, value in network.state_dict().items()}

    task.fit(network, start=0.0, on_step=on_step)
    return losses, saved


@pytest.mark.parametrize("cut_at", [1, 3, 4, 7])
def test_a_state_from_the_middle_goes_on_from_there(few: Splits, cut_at: int) -> None:
    task, network = _task(few), _network(dropout=True)
    _fit(task, network)
    losses, saved = _fit_noting(task, network, cut_at)
    other_task, other = _task(few), _network(seed=5, dropout=True)
    other.load_state_dict(saved["network"])
    other_task.load_state_dict(saved["task"], other)
    assert _fit(other_task, other) == losses[cut_at:]
    assert _same(other.state_dict(), network.state_dict())
    assert _same(other_task.state_dict(), task.state_dict())


def test_fine_tuning_holds_the_last_rate(few: Splits) -> None:
    task, network = _task(few, schedule="step"), _network()
    rates: list[float] = []

    def on_step(loss: float) -> None:
        assert task.optimizer is not None
        rates.append(task.optimizer.param_groups[0]["lr"])

    task.fit(network, start=0.0, on_step=on_step, last_lr=True)
    assert rates == pytest.approx([0.001] * task.steps)
    with pytest.raises(UsageError, match="`schedule` step"):
        _task(few).fit(network, start=0.0, on_step=on_step, last_lr=True)


def test_two_runs_of_one_seed_are_one(few: Splits) -> None:
    runs = {seed: _fit(_task(few, seed=seed), _network(dropout=True)) for seed in (0, 1)}
    torch.rand(7)
    assert _fit(_task(few), _network(dropout=True)) == runs[0] != runs[1]


def test_fitting_leaves_torchs_generator_alone(few: Splits) -> None:
    network, before = _network(dropout=True), torch.get_rng_state()
    _fit(_task(few), network)
    assert torch.equal(before, torch.get_rng_state())


def test_the_rate_follows_the_schedule_from_any_start(few: Splits) -> None:
    task = _task(few, epochs=25, schedule="step", warmup=0.1, lr=0.2)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    assert task.steps == 100

    def rates(start: float) -> list[float]:
        found: list[float] = []

        def on_step(_: float) -> None:
            assert task.optimizer is not None
            found.append(task.optimizer.param_groups[0]["lr"])

        task.fit(network, start=start, on_step=on_step)
        return found

    whole = rates(0.0)
    assert len(whole) == 100
    assert whole[:10] == pytest.approx([0.2 * (step + 0.5) / 10 for step in range(10)])
    assert whole[10:50] == pytest.approx([0.2] * 40)
    assert whole[50:75] == pytest.approx([0.02] * 25)
    assert whole[75:] == pytest.approx([0.002] * 25)
    assert rates(0.6) == whole[60:]
    assert rates(0.29) == whole[29:]  # 0.29 * 100 is 28.999999999999996
    assert rates(0.9999) == whole[99:]


def test_no_epochs_no_change(few: Splits) -> None:
    network = _network()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    task = _task(few, epochs=0)
    assert task.steps == 0
    assert _fit(task, network) == []
    assert _same(before, network.state_dict())


def test_sgd_is_the_papers_and_momentum_goes_on(few: Splits) -> None:
    """One full batch without augmentation, so that each step can be computed here."""
    task = _task(few, epochs=1, batch_size=256, crop=0, lr=0.2)  # halfway down the cosine: 0.1
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    torch.nn.init.normal_(network[1].weight)
    images = few.train.images.float()
    images = (images - images.mean()) / images.std(correction=0)
    momentum: dict[str, Tensor] = {}
    for _ in range(3):  # three fits of one step: the optimizer is kept between them
        loss = nn.functional.cross_entropy(network(images), few.train.labels)
        network.zero_grad()
        loss.backward()
        expected = {}
        for name, parameter in network.named_parameters():
            assert parameter.grad is not None
            gradient = parameter.grad + 2e-4 * parameter.detach()
            momentum[name] = gradient if name not in momentum else 0.9 * momentum[name] + gradient
            expected[name] = parameter.detach() - 0.1 * momentum[name]
        (seen,) = _fit(task, network)
        assert seen == pytest.approx(loss.item(), rel=1e-5)
        for name, parameter in network.named_parameters():
            torch.testing.assert_close(parameter.detach(), expected[name], rtol=1e-4, atol=1e-6)


def test_momentum_goes_on_until_the_parameters_are_others(few: Splits) -> None:
    task, network = _task(few), _network()
    _fit(task, network)
    optimizer = task.optimizer
    _fit(task, network)
    assert task.optimizer is optimizer
    _fit(task, _network())
    assert task.optimizer is not optimizer
    assert [group["param_names"] for group in task.optimizer.param_groups] == [  # type: ignore[union-attr]
        [name for name, _ in network.named_parameters()]
    ]


def test_momentum_can_be_cut_and_taken_up_by_another_network(few: Splits) -> None:
    """What channel surgery does: a smaller layer, its momentum cut alike, everything else as it was."""
    task, network = _task(few), nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    _fit(task, network)
    smaller = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))
    state = task.state_dict()
    assert set(state) == {"position", *(f"momentum/{name}" for name, _ in network.named_parameters())}
    for name in ("momentum/1.weight", "momentum/1.bias"):
        state[name] = state[name][:20]
    with pytest.raises(
        CheckpointError, match=r"momentum of 3\.weight has shape \(10, 32\) and the parameter \(10, 20\)"
    ):
        task.load_state_dict(state, smaller)
    state["momentum/3.weight"] = state["momentum/3.weight"][:, :20]
    task.load_state_dict(state, smaller)
    assert _same(task.state_dict(), state)
    kept = task.optimizer
    _fit(task, smaller)
    assert task.optimizer is kept


def test_a_state_is_a_copy(few: Splits) -> None:
    task, network = _task(few), _network()
    assert set(task.state_dict()) == {"position"}
    _fit(task, network)
    state = task.state_dict()
    before = {name: tensor.clone() for name, tensor in state.items()}
    _fit(task, network)
    assert _same(before, state)
    task.load_state_dict(state, network)
    _fit(task, network)
    assert _same(before, state)


def test_frozen_parameters_stay_and_modes_come_back(few: Splits) -> None:
    task, network = _task(few), _network().train()
    network.conv.weight.requires_grad_(False)
    network.bn.eval()
    frozen = network.conv.weight.clone()
    _fit(task, network)
    assert torch.equal(network.conv.weight, frozen)
    assert "momentum/conv.weight" not in task.state_dict()
    task.evaluate(network, "validation")
    assert network.training
    assert not network.bn.training


@pytest.mark.parametrize("bf16", ["0", "1"])
def test_weights_and_layout_at_rest(few: Splits, monkeypatch: pytest.MonkeyPatch, bf16: str) -> None:
    monkeypatch.setenv("DWINDLE_BF16", bf16)
    task, network = _task(few), _network()
    identity = [id(parameter) for parameter in network.parameters()]
    _fit(task, network)
    assert identity == [id(parameter) for parameter in network.parameters()]
    for tensor in (*network.state_dict().values(), *task.state_dict().values()):
        assert tensor.is_contiguous()
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())
    reloaded = _network(seed=4)
    reloaded.load_state_dict(network.state_dict())
    batch = task.inputs("test")[0]
    assert torch.equal(reloaded.eval()(batch), network.eval()(batch))


def test_masks_applied_on_each_step_hold_to_the_end(few: Splits) -> None:
    task, network = _task(few), _network()
    weight = network.stage2[0].conv1.weight
    mask = torch.rand_like(weight) < 0.3
    held: list[bool] = []

    def apply(_: float) -> None:
        with torch.no_grad():
            held.append(bool((weight[~mask] != 0).any()))  # the step itself moves them
            weight.mul_(mask)

    task.fit(network, start=0.0, on_step=apply)
    assert all(held)
    assert not weight[~mask].any()
    assert weight[mask].all()


def test_a_loss_that_is_not_a_number_is_handed_on(few: Splits) -> None:
    class Diverged(Exception):
        pass

    def stop(loss: float) -> None:
        if math.isnan(loss):
            raise Diverged

    network = _network()
    with torch.no_grad():
        network.classifier.bias[0] = float("nan")
    with pytest.raises(Diverged):
        _task(few).fit(network, start=0.0, on_step=stop)
    assert network.conv.weight.is_contiguous()


def test_evaluate_takes_anything_that_makes_logits(digits: Splits) -> None:
    task = _task(digits)
    sizes: list[int] = []

    def knows(images: Tensor) -> Tensor:
        """Right on the first 256 samples, and on the others wherever the class is 0."""
        sizes.append(len(images))
        labels = digits.test.labels[:256] if len(sizes) == 1 else torch.zeros(len(images), dtype=torch.int64)
        return nn.functional.one_hot(labels, 10).float()

    right = 256 + int((digits.test.labels[256:] == 0).sum())
    assert task.evaluate(knows, "test") == pytest.approx(100 * right / 359)  # type: ignore[arg-type]
    assert sizes == [256, 103]


def test_evaluation_is_in_float32_and_builds_no_graph(few: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DWINDLE_BF16", "1")
    seen: list[tuple[torch.dtype, bool, bool]] = []

    class Watch(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            seen.append((y.dtype, y.requires_grad, self.training))
            return y

    task, network = _task(few), nn.Sequential(nn.Flatten(), Watch(64, 10))
    task.evaluate(network, "validation")
    assert set(seen) == {(torch.float32, False, False)}
    seen.clear()
    _fit(task, network)
    assert set(seen) == {(torch.bfloat16, True, True)}


def test_inputs_are_normalized_and_spread_over_the_split(digits: Splits, few: Splits) -> None:
    (train,) = _task(digits).inputs("train")
    assert train.shape == (256, 1, 8, 8)
    assert train.dtype == torch.float32
    assert abs(float(train.mean())) < 0.05
    assert abs(float(train.std()) - 1) < 0.05
    mean, std = digits.mean[0], digits.std[0]
    torch.testing.assert_close(train[[0, -1]], (digits.train.images[[0, -1]].float() - mean) / std)
    tiny = replace(few, test=few.test[torch.arange(3)])
    assert _task(tiny).inputs("test")[0].shape == (3, 1, 8, 8)
    (example,) = _task(digits).example_inputs()
    assert torch.equal(example, train[:1])


def test_training_inputs_are_what_a_training_begins_with(digits: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    task, seen = _task(digits), list[Tensor]()
    (shown,) = task.training_inputs()
    assert shown.shape == (2048, 1, 8, 8)
    network = _network()
    network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().float().clone()))
    task.fit(network, start=0.0, on_step=lambda _: None)
    size = len(seen[0])
    torch.testing.assert_close(shown[: 2 * size], torch.cat(seen[:2]), rtol=0.02, atol=0.02)  # bf16 may train
    monkeypatch.setattr("dwindle.models.images.NUMBERS", 300 * 64)
    assert len(task.training_inputs()[0]) == 300


def test_a_crop_that_would_leave_nothing_is_refused(few: Splits) -> None:
    with pytest.raises(UsageError, match="8 across: give 1 or so") as raised:
        _task(few, crop=8)
    assert raised.value.option == "crop"


def test_a_run_begun_before_augmentation_could_end_goes_on(few: Splits) -> None:
    assert "augment" not in _task(few).origin
    assert _task(few, augment=0.5).origin["augment"] == 0.5


def test_augmentation_ends_where_it_is_told_to(few: Splits) -> None:
    """Samples of all ones, framed by zeros where they were shifted: a batch tells whether it was."""
    ones = replace(few, train=replace(few.train, images=torch.ones_like(few.train.images)))
    task, seen = _task(ones, augment=0.5), list[bool]()
    network = _network()
    network.register_forward_pre_hook(lambda _, inputs: seen.append(bool((inputs[0] != inputs[0].max()).any())))
    task.fit(network, start=0.0, on_step=lambda _: None)
    assert seen == [True] * (task.steps // 2) + [False] * (task.steps // 2)
    shown, always = task.training_inputs()[0], _task(ones).training_inputs()[0]
    assert (shown == shown.max()).all()
    assert not (always == always.max()).all()
    seen.clear()
    task.fit(network, start=0.75, on_step=lambda _: None)
    assert not any(seen), "a share of the schedule, not of what is left of it"


def test_fewer_samples_than_a_batch(few: Splits) -> None:
    tiny = replace(few, train=few.train[torch.arange(10)])
    assert len(_fit(_task(tiny, epochs=3), _network())) == 3


def test_flip_alone(few: Splits) -> None:
    assert len(_fit(_task(few, crop=0, flip=True, epochs=1), _network())) == 4


def test_other_data_under_the_same_name_is_refused(few: Splits) -> None:
    spec = _task(few).spec
    assert spec.fingerprint == few.fingerprint
    ImageClassification(spec, few)
    relabelled = replace(few, train=Subset(few.train.images, few.train.labels.flip(0)))
    with pytest.raises(UsageError, match="the data 'digits' has changed since the training"):
        ImageClassification(spec, relabelled)


@pytest.mark.parametrize(
    ("change", "option"),
    [
        ({"epochs": -1}, "epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"lr": 0.0}, "lr"),
        ({"lr": math.inf}, "lr"),
        ({"momentum": 1.0}, "momentum"),
        ({"momentum": 0.0, "nesterov": True}, "nesterov"),
        ({"weight_decay": -1e-4}, "weight_decay"),
        ({"crop": -1}, "crop"),
        ({"augment": 1.5}, "augment"),
        ({"ema": 1.0}, "ema"),
        ({"schedule": "linear"}, "schedule"),
        ({"warmup": 1.5}, "warmup"),
    ],
)
def test_options_out_of_range(change: dict[str, Any], option: str) -> None:
    with pytest.raises(UsageError) as refused:
        TaskSpec("digits", **change)
    assert refused.value.option == option


def test_on_step_comes_after_the_step(few: Splits) -> None:
    task, network = _task(few, epochs=1), _network()
    before = network.conv.weight.detach().clone()
    moved: list[bool] = []
    task.fit(network, start=0.0, on_step=lambda _: moved.append(not torch.equal(before, network.conv.weight)))
    assert moved == [True] * 4


def test_the_fused_step_is_the_plain_one_whatever_the_layout(few: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's fused SGD walks through memory unchecked: momentum laid out unlike its weight would be mixed up."""
    ends = []
    for fused in (True, False):
        monkeypatch.setattr("dwindle.models.optimizers._fusible", lambda _, fused=fused: fused)
        task, network = _task(few), _network()
        _fit(task, network)
        task.load_state_dict(task.state_dict(), network)  # momentum comes back contiguous, weights train channels last
        _fit(task, network)
        assert task.optimizer is not None
        assert bool(task.optimizer.param_groups[0]["fused"]) is fused
        ends.append((network.state_dict(), task.state_dict()))
    for (name, one), other in zip(
        {**ends[0][0], **ends[0][1]}.items(), {**ends[1][0], **ends[1][1]}.values(), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5, msg=name)


def test_a_weight_with_gaps_in_memory_is_not_stepped_by_the_fused_kernel(few: Splits) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    whole = torch.zeros(10, 100)
    network[1].weight = nn.Parameter(whole[:, :64])
    task = _task(few, epochs=1)
    _fit(task, network)
    assert not whole[:, 64:].any(), "what isn't the weight's is left alone"
    assert whole[:, :64].any()


def test_a_training_ends_on_the_average_of_its_weights(few: Splits) -> None:
    task, network = _task(few, ema=0.75), _network()
    seen: list[dict[str, Tensor]] = [{name: value.clone() for name, value in network.state_dict().items()}]
    task.fit(
        network,
        start=0.0,
        on_step=lambda _: seen.append({name: value.clone() for name, value in network.state_dict().items()}),
    )
    expected = seen[0]
    for steps, weights in enumerate(seen[1:], start=1):
        decay = min(0.75, (1 + steps) / (10 + steps))
        for name, value in weights.items():
            if value.is_floating_point():
                expected[name] = decay * expected[name] + (1 - decay) * value
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, expected[name], msg=name)
            assert value.is_contiguous()
    assert not any(name.startswith("average/") for name in task.state_dict())
    raw_task, raw = _task(few), _network()
    _fit(raw_task, raw)
    assert _same(raw_task.state_dict(), task.state_dict()), "the steps themselves are the same"
    assert not torch.equal(raw.conv.weight, network.conv.weight)


@pytest.mark.parametrize("cut_at", [1, 4, 7])
def test_an_averaged_training_goes_on_from_its_middle(few: Splits, cut_at: int) -> None:
    task, network = _task(few, ema=0.9), _network()
    losses, saved = _fit_noting(task, network, cut_at)
    other_task, other = _task(few, ema=0.9), _network(seed=5)
    other.load_state_dict(saved["network"])
    other_task.load_state_dict(saved["task"], other)
    assert _fit(other_task, other) == losses[cut_at:]
    assert _same(other.state_dict(), network.state_dict())


def test_an_average_keeps_pruned_weights_at_zero_from_any_start(few: Splits) -> None:
    """Weight rewinding loads a state from the middle of the dense training: its average had nothing pruned."""
    task, network = _task(few, ema=0.9), _network()
    weight = network.stage2[0].conv1.weight
    saved: dict[str, Tensor] = {}

    def save_half(_: float) -> None:
        if int(task.state_dict()["position"][1]) == task.steps // 2:
            saved.update(task.state_dict())

    task.fit(network, start=0.0, on_step=save_half)
    assert "average/stage2.0.conv1.weight" in saved
    task.load_state_dict(saved, network)
    mask = torch.rand_like(weight) < 0.3

    @torch.no_grad()
    def hold(_: float) -> None:
        weight.mul_(mask)

    hold(0.0)
    task.fit(network, start=0.5, on_step=hold)
    assert not weight[~mask].any()
    assert weight[mask].any()


@pytest.mark.slow
def test_compiled_trains_the_same_and_resumes_bit_for_bit() -> None:
    """In a process of its own, as a user has it: torch's compiler imports setuptools, which refuses to work where
    another test has imported the standard library's distutils."""
    script = Path(__file__).with_name("compiled_training.py")
    environment = {**os.environ, "DWINDLE_BF16": "0"}  # whose rounding differs between one kernel and another
    ran = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=600, env=environment
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.slow
def test_a_machine_without_a_compiler_is_told_so(few: Splits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    with pytest.raises(UsageError, match="no-such-compiler") as refused:
        _fit(_task(few, compile=True), nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10)))
    assert (refused.value.code, refused.value.option) == ("compile-failed", "compile")


@pytest.mark.needs("GPU")
def test_a_gpu_trains_under_the_masks_and_gives_the_network_back(few: Splits) -> None:
    task, network = _task(few), nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(288, 10))
    masks = {name: torch.rand(weight.shape) < 0.3 for name, weight in prunable(network).items()}
    hold, seen = mask_applier(network, masks), set()

    def on_step(loss: float) -> None:
        hold()
        seen.add(network[0].weight.device.type)

    before = list(network.parameters())
    task.fit(network, start=0.0, on_step=on_step)
    task.fit(network, start=0.5, on_step=on_step)
    assert seen == {"cuda"}
    assert all(now is then and now.device.type == "cpu" for now, then in zip(network.parameters(), before, strict=True))
    assert masks_hold(network, masks)
    assert task.evaluate(network, "validation") > 20


def test_a_kernel_of_three_dimensions_trains_too(few: Splits) -> None:
    network = nn.Sequential(nn.Unflatten(1, (1, 1)), nn.Conv3d(1, 4, 3, padding=1), nn.Flatten(), nn.Linear(256, 10))
    losses = _fit(_task(few), network)
    assert losses[-1] < losses[0]
