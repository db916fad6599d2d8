"""Iterative pruning on a task that isn't ours: a user's own few lines, trained for real."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dwindle import checkpoint, saved_rounds
from dwindle.compress.allowance import Allowance
from dwindle.compress.blocks import Blocks
from dwindle.compress.budget import Budget, Solver
from dwindle.compress.channels import Channels
from dwindle.compress.masks import masks_hold
from dwindle.compress.methods import METHODS, Method, method
from dwindle.compress.network import Network
from dwindle.compress.pruning_settings import PruningSettings
from dwindle.compress.recalibrate import recalibrate_by
from dwindle.compress.rounds import IterativePruning
from dwindle.compress.watcher import Watcher
from dwindle.errors import BudgetMissed, DwindleError, UsageError
from dwindle.export.targets import load
from dwindle.models.checked_task import CheckedTask
from dwindle.record import Round


@dataclass
class Regression:
    """Learns a fixed linear map. Keeps its own optimizer, and no more than the protocol asks."""

    steps: int = 20
    starts: list[float] = field(default_factory=list)
    fail_at: int | None = None
    optimizer: torch.optim.SGD | None = None

    def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
        self.starts.append(start)
        model.train()
        self.optimizer = self.optimizer or torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for step in range(round(start * self.steps), self.steps):
            generator = torch.Generator().manual_seed(step)
            x = torch.randn(32, 8, generator=generator)
            loss = (model(x) - x.flip(1)).square().mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            on_step(float("nan") if len(self.starts) - 1 == self.fail_at and step == 5 else loss.item())

    def evaluate(self, model: nn.Module, split: str) -> float:
        x = torch.randn(64, 8, generator=torch.Generator().manual_seed(99))
        with torch.no_grad():
            return -float((model.eval()(x) - x.flip(1)).square().mean())

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (torch.zeros(1, 8),)


@dataclass
class Resumable(Regression):
    def state_dict(self) -> dict[str, Tensor]:
        names = self.optimizer.state.values() if self.optimizer else ()
        return {f"momentum/{i}": entry["momentum_buffer"] for i, entry in enumerate(names)}

    def load_state_dict(self, state: dict[str, Tensor], model: nn.Module) -> None:
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for i, parameter in enumerate(model.parameters()):
            if f"momentum/{i}" in state:
                self.optimizer.state[parameter]["momentum_buffer"] = state[f"momentum/{i}"].clone()


class Interrupt(Watcher):
    """Presses Ctrl-C in the middle of a round."""

    def __init__(self, index: int) -> None:
        self.index = index

    def step(self, index: int, done: int, total: int | None, loss: float) -> None:
        if index == self.index and done == 7:
            raise KeyboardInterrupt


class Notes(Watcher):
    def __init__(self) -> None:
        self.noted: list[str] = []

    def note(self, sentence: str) -> None:
        self.noted.append(sentence)


def no_dense() -> nn.Module:
    raise AssertionError("only a cut network is put back into a fresh one")


def nonzero_bytes(model: nn.Module) -> int:
    return 4 * sum(int((p != 0).sum()) for p in model.parameters() if p.dim() > 1)


def pruning(
    folder: Path,
    task: Regression,
    budget: Budget | None = None,
    watcher: Watcher | None = None,
    **options: object,
) -> IterativePruning:
    if not folder.exists():
        checkpoint.start(folder, {})
    torch.manual_seed(0)
    network = Network(nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 8)))
    solver = Solver(budget or Budget(density=0.4), Blocks(), nonzero_bytes, "onnx")
    settings = {"method": METHODS["lr-rewind"], "prune_per_round": 0.2, "rounds": None, **options}
    return IterativePruning(
        folder,
        network,
        CheckedTask(task),
        (solver,),
        PruningSettings(**settings),  # type: ignore[arg-type]
        watcher or Watcher(),
        no_dense,
    )


def test_twenty_percent_of_the_survivors_go_per_round_until_the_budget(tmp_path: Path) -> None:
    run = pruning(tmp_path / "net", Regression())
    densities = [record.density for record in run.run()]
    assert densities == pytest.approx([1, 0.8, 0.64, 0.512, 0.4], abs=0.005)
    assert masks_hold(run.network.model, run.network.masks)


def test_the_byte_budget_is_met_from_below(tmp_path: Path) -> None:
    history = pruning(tmp_path / "net", Regression(), Budget(size=300)).run()
    assert 296 <= history[-1].bytes <= 300


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_fixed_number_of_rounds_ends_on_the_budget(tmp_path: Path, rounds: int) -> None:
    history = pruning(tmp_path / "net", Regression(), rounds=rounds).run()
    assert len(history) == rounds + 1
    assert history[-1].density == pytest.approx(0.4, abs=0.005)


def test_a_layer_that_ends_up_empty_is_named_once(tmp_path: Path) -> None:
    watcher = Notes()
    run = pruning(tmp_path / "net", Regression(), watcher=watcher)
    with torch.no_grad():
        run.network.model[2].weight.mul_(1e-4)  # type: ignore[index]

    def learns_next_to_nothing(model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
        with torch.no_grad():
            model[2].bias.add_(1e-6)  # type: ignore[index]
        on_step(1.0)

    run.task.given.fit = learns_next_to_nothing  # type: ignore[method-assign]
    run.run()
    assert run.network.emptied == ["2.weight"]
    (note,) = watcher.noted[-1:]
    assert "pruned every weight of 2.weight, so" in note
    assert sum("pruned every weight" in noted for noted in watcher.noted) == 1


def test_rewinding_moves_the_schedule_alone(tmp_path: Path) -> None:
    task = Regression()
    run = pruning(tmp_path / "net", task, method=method("lr-rewind", 0.25), rounds=2)
    run.run()
    assert task.starts == [0.0, 0.25, 0.25]
    assert task.optimizer is not None
    assert set(task.optimizer.state) == set(run.network.model.parameters()), "momentum continued on the same weights"


class Snapshots(Watcher):
    """Keeps the weights as each round's first step left them, and as the dense training passed a step."""

    def __init__(self, step: int) -> None:
        self.at, self.then, self.firsts = step, {}, []
        self.model: nn.Module | None = None

    def step(self, index: int, done: int, total: int | None, loss: float) -> None:
        assert self.model is not None
        if index == 0 and done == self.at:
            self.then = {name: value.clone() for name, value in self.model.state_dict().items()}


@pytest.mark.parametrize(("name", "rewind_to"), [("weight-rewind", 0.25), ("lottery-ticket", None)])
def test_weight_rewinding_starts_a_round_from_the_earlier_weights_under_the_mask(
    tmp_path: Path, name: str, rewind_to: float | None
) -> None:
    seen: list[dict[str, Tensor]] = []

    class Recording(Resumable):
        def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
            seen.append({key: value.clone() for key, value in model.state_dict().items()})
            super().fit(model, start=start, on_step=on_step)

    task, snapshots = Recording(), Snapshots(step=5)
    run = pruning(tmp_path / "net", task, method=method(name, rewind_to), rounds=2, watcher=snapshots)
    snapshots.model = run.network.model
    run.run()
    origin = snapshots.then if rewind_to else seen[0]
    assert len(seen) == 3
    for start_of_round in seen[1:]:
        for key, value in start_of_round.items():
            survives = value != 0 if key in ("0.weight", "2.weight") else torch.ones_like(value, dtype=torch.bool)
            assert torch.equal(value[survives], origin[key][survives]), key
    assert task.starts == [0.0, rewind_to or 0.0, rewind_to or 0.0]


def test_lr_rewinding_keeps_weights_and_statistics(tmp_path: Path) -> None:
    ends: list[Tensor] = []
    starts: list[Tensor] = []

    class Recording(Regression):
        def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
            starts.append(model.state_dict()["1.running_mean"].clone())
            super().fit(model, start=start, on_step=on_step)
            ends.append(model.state_dict()["1.running_mean"].clone())

    pruning(tmp_path / "net", Recording(), rounds=2).run()
    assert torch.equal(starts[1], ends[0])
    assert torch.equal(starts[2], ends[1])


def test_an_interrupted_run_resumes_to_the_same_weights(tmp_path: Path) -> None:
    undisturbed = pruning(tmp_path / "a", Resumable(), rounds=4)
    expected = undisturbed.run()
    with pytest.raises(KeyboardInterrupt):
        pruning(tmp_path / "b", Resumable(), rounds=4, watcher=Interrupt(index=3)).run()
    resumed = pruning(tmp_path / "b", Resumable(), rounds=4)
    history = resumed.run()
    assert [r.validation for r in history] == [r.validation for r in expected]
    assert len(history) == 5
    for name, value in undisturbed.network.model.state_dict().items():
        assert torch.equal(value, resumed.network.model.state_dict()[name]), name


class Kill(Watcher):
    """Ends the process, as far as the run can tell, right after a save in the middle of a round."""

    def __init__(self, index: int, at: int) -> None:
        self.index, self.at = index, at

    def step(self, index: int, done: int, total: int | None, loss: float) -> None:
        if (index, done) == (self.index, self.at):
            raise KeyboardInterrupt


DIGITS = {"data": "digits", "epochs": 1, "batch_size": 128}


def digits_pruning(
    folder: Path, name: str, watcher: Watcher | None = None, gradual: float = 0.0, qat: float = 0.0
) -> IterativePruning:
    from dwindle.models.tasks import make_task

    if not folder.exists():
        checkpoint.start(folder, {})
    torch.manual_seed(0)
    network = Network(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.BatchNorm1d(32), nn.Dropout(), nn.Linear(32, 10))
    )
    solver = Solver(Budget(density=0.3), Blocks(), nonzero_bytes, "onnx")
    settings = PruningSettings(
        method(name),
        0.2,
        rounds=2,
        recalibrate=qat > 0,
        save_every=0.0,
        gradual=gradual,
        qat=qat,
        target=load("onnx", "w8a8"),
    )
    return IterativePruning(
        folder,
        network,
        make_task({**DIGITS, "ema": 0.9 if gradual else None}),
        (solver,),
        settings,
        watcher or Watcher(),
        no_dense,
    )


@pytest.fixture(
    scope="module", params=[("lr-rewind", 0.0, 0.0), ("lr-rewind", 0.8, 0.5), ("weight-rewind", 0.0, 0.0)], ids=str
)
def undisturbed(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[tuple[str, float, float], Sequence[Round], dict[str, Tensor]]:
    """What a run is given, and the history and the weights it ends with if nobody cuts it off."""
    name, gradual, qat = request.param
    run = digits_pruning(tmp_path_factory.mktemp("undisturbed") / "net", name, gradual=gradual, qat=qat)
    history = run.run()
    return request.param, history, run.network.model.state_dict()


@pytest.mark.parametrize(("index", "at"), [(0, 1), (0, 6), (1, 4), (2, 7)])
def test_a_round_cut_off_in_the_middle_goes_on_to_the_same_weights(
    tmp_path: Path,
    undisturbed: tuple[tuple[str, float, float], Sequence[Round], dict[str, Tensor]],
    index: int,
    at: int,
) -> None:
    (name, gradual, qat), expected, weights = undisturbed
    with pytest.raises(KeyboardInterrupt):
        digits_pruning(tmp_path / "net", name, Kill(index, at), gradual, qat).run()
    resumed = digits_pruning(tmp_path / "net", name, gradual=gradual, qat=qat)
    history = resumed.run()
    assert [(r.validation, r.loss) for r in history] == [(r.validation, r.loss) for r in expected]
    for key, value in weights.items():
        assert torch.equal(value, resumed.network.model.state_dict()[key]), key


def test_a_loss_that_is_not_a_number_stops_and_keeps_the_rounds_before(tmp_path: Path) -> None:
    with pytest.raises(DwindleError, match="nan at step 6 of round 2; round 1 is saved") as raised:
        pruning(tmp_path / "net", Regression(fail_at=2)).run()
    assert raised.value.code == "diverged"
    history, _, _ = saved_rounds.last_round(tmp_path / "net") or ((), {}, None)
    assert [record.index for record in history] == [0, 1]


def test_weights_that_are_not_numbers_after_the_last_step_are_no_network(tmp_path: Path) -> None:
    class Diverging(Regression):
        def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
            super().fit(model, start=start, on_step=on_step)
            with torch.no_grad():
                next(model.parameters())[0, 0] = torch.nan

    with pytest.raises(DwindleError) as raised:
        pruning(tmp_path / "net", Diverging()).run()
    assert raised.value.code == "diverged"
    assert saved_rounds.last_round(tmp_path / "net") is None


@pytest.mark.parametrize("qat", [0.0, 0.5])
def test_batch_norm_is_recalibrated_before_what_trains_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, qat: float
) -> None:
    found: list[tuple[Tensor, Tensor]] = []

    def recalibrated(task: CheckedTask, model: nn.Module) -> None:
        recalibrate_by(task, model)
        found.append((model.get_buffer("2.running_mean").clone(), model.get_parameter("1.weight").detach().clone()))

    monkeypatch.setattr("dwindle.compress.training.recalibrate_by", recalibrated)
    run = digits_pruning(tmp_path / "net", "lr-rewind", qat=qat)
    run = replace(run, settings=replace(run.settings, recalibrate=True))
    history = run.run()
    assert len(found) == len(history)  # once in each training
    mean, weight = found[-1]
    assert torch.equal(run.network.model.get_buffer("2.running_mean"), mean)
    assert torch.equal(run.network.model.get_parameter("1.weight"), weight) == (not qat)


def test_a_task_that_forgets_on_step_is_caught(tmp_path: Path) -> None:
    class Forgetful(Regression):
        def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
            super().fit(model, start=start, on_step=lambda loss: None)

    with pytest.raises(UsageError, match="never called on_step") as raised:
        pruning(tmp_path / "net", Forgetful()).run()
    assert (raised.value.code, raised.value.name) == ("bad-member", "fit")


def test_a_fit_that_ends_by_loading_an_average_is_masked_once_more(tmp_path: Path) -> None:
    class Averaging(Regression):
        def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
            super().fit(model, start=start, on_step=on_step)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(1e-3)

    notes = Notes()
    run = pruning(tmp_path / "net", Averaging(), rounds=2, watcher=notes)
    history = run.run()
    assert masks_hold(run.network.model, run.network.masks)
    assert run.network.density == history[-1].density == pytest.approx(0.4, abs=0.005)
    assert [sentence.partition(":")[0] for sentence in notes.noted] == ["round 1", "round 2"]


def test_a_fit_that_trains_another_network_is_caught(tmp_path: Path) -> None:
    class Stale(Regression):
        """Keeps the network that it was first given, as an optimizer under another name would."""

        first: nn.Module | None = None

        def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
            self.first = self.first or model
            super().fit(self.first, start=start, on_step=on_step)

    run = pruning(tmp_path / "net", Stale(), rounds=2)

    class Replace(Watcher):
        """Puts a copy in the network's place after round 0, as a cut does."""

        def finished(self, record: Round, rounds: int) -> None:
            if not record.index:
                run.network.model = copy.deepcopy(run.network.model)

    run = replace(run, watcher=Replace())
    with pytest.raises(UsageError, match="changed no weight") as raised:
        run.run()
    assert (raised.value.code, raised.value.name) == ("bad-member", "fit")


def test_a_fit_that_never_comes_to_the_step_to_rewind_to_is_caught(tmp_path: Path) -> None:
    class Brief(Regression):
        def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
            Regression(steps=5).fit(model, start=start, on_step=on_step)

    with pytest.raises(
        UsageError, match=r"called on_step 5 times, and weight rewinding goes back to step 10"
    ) as raised:
        pruning(tmp_path / "net", Brief(), method=Method(start=0.5, restore=True)).run()
    assert (raised.value.code, raised.value.name) == ("bad-member", "fit")


def test_a_fit_that_fails_says_where_and_the_rounds_before_are_kept(tmp_path: Path) -> None:
    class Fails(Regression):
        def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
            super().fit(model, start=start, on_step=on_step)
            if len(self.starts) == 2:
                raise OSError("disk gone")

    sentence = r"`fit` failed \(OSError: disk gone; .*test_rounds.py, line \d+\) in round 1; round 0 is saved"
    with pytest.raises(DwindleError, match=sentence) as raised:
        pruning(tmp_path / "net", Fails()).run()
    assert (raised.value.code, raised.value.name) == ("task-failed", "fit")
    assert pruning(tmp_path / "net", Regression()).run()[-1].density == pytest.approx(0.4, abs=0.005)


@pytest.mark.parametrize("value", [float("nan"), torch.zeros(3), None])
def test_a_metric_that_is_not_one_number_is_refused(tmp_path: Path, value: object) -> None:
    class Vague(Regression):
        def evaluate(self, model: nn.Module, split: str) -> float:
            return value  # type: ignore[return-value]

    with pytest.raises(UsageError) as raised:
        pruning(tmp_path / "net", Vague()).run()
    assert (raised.value.code, raised.value.name) == ("bad-member", "evaluate")


@dataclass
class Labelled(Regression):
    """Regression that calls itself a classification of 64 samples."""

    fails: bool = False

    def evaluate(self, model: nn.Module, split: str) -> float:
        return 75.0

    def labels(self, split: str) -> Tensor:
        if self.fails:
            raise KeyError(split)
        return torch.zeros(64, dtype=torch.int64)


def test_rounds_know_of_how_many_samples_their_accuracy_is(tmp_path: Path) -> None:
    assert {one.samples for one in pruning(tmp_path / "net", Labelled()).run()} == {64}
    assert {one.samples for one in pruning(tmp_path / "other", Regression()).run()} == {None}


def test_labels_that_fail_cost_the_interval_and_not_the_round(tmp_path: Path) -> None:
    watcher = Notes()
    history = pruning(tmp_path / "net", Labelled(fails=True), watcher=watcher).run()
    assert len(history) > 1
    assert {one.samples for one in history} == {None}
    assert len([said for said in watcher.noted if "no interval" in said and "`labels` failed" in said]) == 1


def test_only_the_dense_round_and_the_last_two_stay_on_disk(tmp_path: Path) -> None:
    history = pruning(tmp_path / "net", Regression()).run()
    kept = sorted(int(folder.name) for folder in (tmp_path / "net/rounds").iterdir())
    assert kept == [0, len(history) - 2, len(history) - 1]
    assert isinstance(history[-1], Round)


class Wavering(Resumable):
    """Validation falls as the weights go: a density of 0.5 costs 5 points of it."""

    def evaluate(self, model: nn.Module, split: str) -> float:
        weights = [p for p in model.parameters() if p.dim() > 1]
        alive = sum(int((p != 0).sum()) for p in weights) / sum(p.numel() for p in weights)
        return 100 - 10 * (1 - alive)


def test_an_allowed_drop_ends_on_the_smallest_that_held(tmp_path: Path) -> None:
    run = pruning(tmp_path / "net", Wavering(), Budget(allowance=Allowance(5.2)))
    history = run.run()
    assert [record.index for record in history] == [0, 1, 2, 3, 6]  # 0.41 and 0.46 were too few
    assert history[-1].density == run.network.density == pytest.approx(0.512 * 0.95, abs=0.005)
    assert history[0].validation - history[-1].validation <= 5.2
    assert masks_hold(run.network.model, run.network.masks)


@pytest.mark.parametrize("index", [4, 5, 6])
def test_a_killed_search_for_the_drop_ends_as_an_undisturbed_one(tmp_path: Path, index: int) -> None:
    budget = Budget(allowance=Allowance(5.2))
    whole = pruning(tmp_path / "whole", Wavering(), budget)
    expected = whole.run()
    with pytest.raises(KeyboardInterrupt):
        pruning(tmp_path / "cut", Wavering(), budget, Interrupt(index)).run()
    again = pruning(tmp_path / "cut", Wavering(), budget)
    assert [r.validation for r in again.run()] == [r.validation for r in expected]
    for name, tensor in whole.network.model.state_dict().items():
        assert torch.equal(again.network.model.state_dict()[name], tensor), name


def test_a_drop_that_no_step_keeps_is_a_missed_budget(tmp_path: Path) -> None:
    with pytest.raises(BudgetMissed) as raised:
        pruning(tmp_path / "net", Wavering(), Budget(allowance=Allowance(0.01))).run()
    assert (raised.value.code, raised.value.option) == ("out-of-reach", "max_drop")


class Counting(Resumable):
    """Validation falls by 10 points as the weights go, pruned or cut away."""

    def evaluate(self, model: nn.Module, split: str) -> float:
        return 90 + 10 * sum(int((p != 0).sum()) for p in model.parameters() if p.dim() > 1) / 256


def small_network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16), nn.Linear(16, 8)).eval()


def channels_then_weights(folder: Path, watcher: Watcher | None = None, align: int = 1) -> IterativePruning:
    allowance = Allowance(5.2)
    run = pruning(folder, Counting(steps=8), watcher=watcher)
    torch.manual_seed(0)
    channels = Channels(align, counts="parameters")
    solvers = [
        Solver(Budget(allowance=allowance.half), channels, nonzero_bytes, "onnx"),
        Solver(Budget(allowance=allowance), Blocks(), nonzero_bytes, "onnx"),
    ]
    network = Network(small_network(), (torch.zeros(1, 8),))
    return replace(run, network=network, solvers=tuple(solvers), build_dense=small_network)


def test_channels_may_lose_half_of_an_allowed_drop_and_weights_the_rest(tmp_path: Path) -> None:
    run = channels_then_weights(tmp_path / "net")
    history = run.run()
    assert run.network.model.state_dict()["0.weight"].shape == (12, 8)  # 11 of 16 channels lose over 2.6 points
    assert history[-1].density == run.network.density == pytest.approx(0.49, abs=0.01)
    assert history[-1].validation >= 100 - 5.2
    assert masks_hold(run.network.model, run.network.masks)
    macs = [record.macs or 0 for record in history]
    assert macs == sorted(macs, reverse=True)


@pytest.mark.slow
@pytest.mark.parametrize("align", [1, 16])
def test_a_killed_search_over_channels_and_weights_ends_as_an_undisturbed_one(tmp_path: Path, align: int) -> None:
    whole = channels_then_weights(tmp_path / "whole", align=align)
    expected = whole.run()
    assert (whole.network.kept == {}) == (align == 16)  # no width below 16 is a multiple of it
    last = max(int(folder.name) for folder in (tmp_path / "whole/rounds").iterdir())
    for index in range(1, last + 1):
        with pytest.raises(KeyboardInterrupt):
            channels_then_weights(tmp_path / "cut", Interrupt(index), align).run()
    again = channels_then_weights(tmp_path / "cut", align=align)
    assert [(r.index, r.validation) for r in again.run()] == [(r.index, r.validation) for r in expected]
    for name, tensor in whole.network.model.state_dict().items():
        assert torch.equal(again.network.model.state_dict()[name], tensor), name
