"""The agent finds what is known to be right, within the budget, the same way every time, killed or not."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from dwindle.compress.amc.allocation import Allocator, full
from dwindle.compress.amc.densities import Densities
from dwindle.compress.amc.search import Result, Settings, found, judge, search
from dwindle.compress.amc.view import curve_view, result_view
from dwindle.compress.amc.widths import Widths
from dwindle.compress.layers import Layers
from dwindle.errors import CheckpointError, UsageError
from dwindle.models.checked_task import CheckedTask
from dwindle.models.zoo import resnet8

QUICK = Settings(episodes=30, warmup=10)


class Halves(nn.Module):
    """Two layers side by side, of which the answer depends on the second alone."""

    def __init__(self) -> None:
        super().__init__()
        self.useless = nn.Linear(32, 32)
        self.useful = nn.Linear(32, 32)

    def forward(self, x: Tensor) -> Tensor:
        return self.useful(x) + 0 * self.useless(x)


class Agreement:
    """Judges by how near the answers are to the dense network's: 100 is equal."""

    def __init__(self, model: nn.Module, at_evaluation: Callable[[int], None] | None = None) -> None:
        self.x = torch.randn(128, 32, generator=torch.Generator().manual_seed(0))
        self.answers = model(self.x).detach()
        self.evaluations = 0
        self.at_evaluation = at_evaluation

    def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
        raise NotImplementedError

    def evaluate(self, model: nn.Module, split: str) -> float:
        assert split == "validation"
        self.evaluations += 1
        if self.at_evaluation:
            self.at_evaluation(self.evaluations)
        torch.rand(7)  # a user's code may draw from the global generator
        with torch.no_grad():
            return float(100 - 100 * (model(self.x) - self.answers).square().mean() / self.answers.var())

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (torch.zeros(1, 32),)


def halves() -> tuple[Densities, Agreement]:
    torch.manual_seed(0)
    model = Halves()
    return Densities(model, Layers(), (torch.zeros(1, 32),)), Agreement(model)


def run(folder: Path, at_evaluation: Callable[[int], None] | None = None, settings: Settings = QUICK) -> Result:
    space, task = halves()
    task.at_evaluation = at_evaluation
    return search(folder, space, CheckedTask(task), 700, settings)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Result:
    return run(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.slow
def test_a_useless_layer_is_left_almost_nothing(tmp_path: Path) -> None:
    result = run(tmp_path, settings=Settings(episodes=60, warmup=20))
    assert result.names == ("useful.weight", "useless.weight")
    assert result.uniform.kept == (350, 350)
    for trial in (result.amc, result.random):
        assert trial.reward > result.uniform.reward + 0.1
        assert trial.kept[0] > 1.6 * trial.kept[1]
    assert np.mean(result.curve[-20:]) > np.mean(result.curve[:20]), "it learns, rather than stumble on it"
    assert len(result.curve) == 60


def test_every_allocation_keeps_within_the_budget_and_its_reward_is_its_own(undisturbed: Result) -> None:
    space, task = halves()
    for trial in (undisturbed.amc, undisturbed.random, undisturbed.uniform):
        assert space.cost(trial.kept) == trial.cost <= undisturbed.budget == 700
        assert trial.reward == judge(space, CheckedTask(task), trial.kept) / 100
    assert undisturbed.amc.reward == max(undisturbed.curve)


@pytest.mark.slow
def test_a_seed_gives_the_same_search_and_another_another(tmp_path: Path, undisturbed: Result) -> None:
    assert run(tmp_path / "same") == undisturbed
    assert run(tmp_path / "other", settings=Settings(30, 10, seed=1)).curve != undisturbed.curve


def test_the_global_generators_are_left_alone(tmp_path: Path) -> None:
    def states() -> tuple[object, ...]:
        return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()

    space, task = halves()
    before = states()
    search(tmp_path, space, CheckedTask(task), 700, Settings(episodes=4, warmup=2))
    assert states() == before


@pytest.mark.parametrize("when", [1, 25, 50])
def test_an_interrupted_search_ends_as_if_it_had_not_been(tmp_path: Path, undisturbed: Result, when: int) -> None:
    def interrupt(evaluation: int) -> None:
        if evaluation == when:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, interrupt)
    assert found(tmp_path) is None
    asked: list[int] = []
    assert run(tmp_path, asked.append) == undisturbed
    assert len(asked) <= 61 - (when - 1), "what was judged before is not judged again"


def kill_at_40(folder: Path) -> None:
    run(folder, lambda evaluation: os.kill(os.getpid(), signal.SIGKILL) if evaluation == 40 else None)


@pytest.mark.slow
def test_a_killed_search_ends_as_if_it_had_not_been(tmp_path: Path, undisturbed: Result) -> None:
    script = (
        "import importlib.util, pathlib, sys, torch; torch.set_num_threads(1);"
        "spec = importlib.util.spec_from_file_location('killed', sys.argv[1]);"
        "module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module);"
        "module.kill_at_40(pathlib.Path(sys.argv[2]))"
    )
    child = subprocess.run([sys.executable, "-c", script, __file__, str(tmp_path)], check=False)
    assert child.returncode == -signal.SIGKILL
    assert run(tmp_path) == undisturbed


def test_a_finished_search_is_read_rather_than_done_again(tmp_path: Path, undisturbed: Result) -> None:
    run(tmp_path)
    asked: list[int] = []
    assert run(tmp_path, asked.append) == undisturbed == found(tmp_path)
    assert not asked


def test_another_search_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    run(tmp_path, settings=Settings(2, 1))
    with pytest.raises(UsageError, match="another network or budget"):
        run(tmp_path, settings=Settings(3, 1))


def test_a_damaged_search_is_named(tmp_path: Path) -> None:
    run(tmp_path, settings=Settings(2, 1))
    document = tmp_path / "search.json"
    document.write_text(document.read_text().replace("0.", "1.", 1))
    with pytest.raises(CheckpointError, match=r"search\.json is corrupt"):
        run(tmp_path, settings=Settings(2, 1))


def test_without_the_extra_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(UsageError, match=r"needs gymnasium: pip install dwindle\[amc\]"):
        run(tmp_path)


def test_a_metric_that_is_no_number_is_refused(tmp_path: Path) -> None:
    space, task = halves()
    task.answers[0] = float("nan")
    with pytest.raises(UsageError) as raised:
        search(tmp_path, space, CheckedTask(task), 700, QUICK)
    assert (raised.value.code, raised.value.name) == ("bad-member", "evaluate")


@pytest.mark.parametrize(("episodes", "warmup"), [(10, 10), (10, 0), (0, 0)])
def test_episodes_that_make_no_sense_are_refused(episodes: int, warmup: int) -> None:
    with pytest.raises(UsageError) as refused:
        Settings(episodes, warmup)
    assert refused.value.option == "episodes"


def test_the_other_reward_weighs_the_error_by_the_log_of_the_cost(tmp_path: Path) -> None:
    space, task = halves()
    result = search(tmp_path, space, CheckedTask(task), 700, Settings(2, 1, reward="error-cost"))
    error = 1 - judge(space, CheckedTask(task), result.uniform.kept) / 100
    assert result.uniform.reward == pytest.approx(-error * np.log(result.uniform.cost))


def test_candidates_keep_the_largest_weights_and_leave_the_network_alone() -> None:
    space, _ = halves()
    weight = space.model.get_parameter("useful.weight").detach().clone()
    candidate = space.apply((100, 1)).get_parameter("useful.weight")
    survivors = candidate != 0
    assert int(survivors.sum()) == 100
    assert torch.equal(candidate[survivors], weight[survivors])
    assert weight[survivors].abs().min() >= weight[~survivors].abs().max()
    assert torch.equal(space.model.get_parameter("useful.weight"), weight)


@pytest.mark.filterwarnings("ignore:We recommend you to use a symmetric")  # the agent rescales
def test_the_environment_is_one_that_gymnasium_accepts() -> None:
    from stable_baselines3.common.env_checker import check_env

    from dwindle.compress.amc.env import AllocationEnv

    space, _ = halves()
    check_env(AllocationEnv(Allocator.of(space, 700), lambda kept: 0.5), skip_render_check=True)


def test_the_state_is_what_the_agent_may_know() -> None:
    from dwindle.compress.amc.env import AllocationEnv

    space = Densities(resnet8(in_channels=1), Layers(), (torch.zeros(1, 1, 8, 8),))
    whole = space.cost(full(space))
    env = AllocationEnv(Allocator.of(space, whole / 2), lambda kept: 0.5)
    state, _ = env.reset()
    first = space.layers[0].units
    # The stem among index, type, channels in and out, stride, kernel and weights of all layers.
    assert state[:7].tolist() == pytest.approx([0, 1, 0, 6 / 54, 0, 1, 0])
    assert state[7] == pytest.approx((144 * 64 - 640) / (2304 * 64 - 640))
    assert state[8] == 0
    assert state[9] == pytest.approx((whole - first) / whole)
    assert state[10] == 1
    state, reward, done, _, _ = env.step(np.array([0.25], dtype=np.float32))
    assert state[8] == pytest.approx((first - env.kept[0]) / whole)
    assert state[9] == pytest.approx((whole - first - space.layers[1].units) / whole)
    assert state[10] == 0.25
    assert (reward, done) == (0.0, False)


def test_channels_that_are_shared_may_all_be_kept(tmp_path: Path) -> None:
    """The published code fails on a ratio of 1 where layers share their channels."""
    from dwindle.compress.amc.env import AllocationEnv

    torch.manual_seed(0)
    model, inputs = resnet8(in_channels=1).eval(), (torch.randn(1, 1, 8, 8),)
    space = Widths(model, inputs)
    for share in (0.5, 1.0):
        budget = share * space.cost(full(space))
        env = AllocationEnv(Allocator.of(space, budget), lambda kept: 0.5)
        env.reset()
        while not env.step(np.ones(1, dtype=np.float32))[2]:
            pass
        assert space.cost(env.kept) <= budget
        candidate = space.apply(env.kept)
        assert candidate(*inputs).shape == (1, 10)
    assert env.kept == full(space)


def test_protected_channels_are_not_chosen_about() -> None:
    model, inputs = resnet8(in_channels=1).eval(), (torch.randn(1, 1, 8, 8),)
    names = [layer.name for layer in Widths(model, inputs).layers]
    space = Widths(model, inputs, whole={"stage2.0.conv1.weight"})
    assert [layer.name for layer in space.layers] == [name for name in names if name != "stage2.0.conv1"]
    candidate = space.apply([layer.count(0.5) for layer in space.layers])
    assert candidate.stage2[0].conv1.out_channels == 32
    assert candidate.stage3[0].conv1.out_channels == 32


def test_layers_come_in_the_order_of_use_with_their_macs() -> None:
    from dwindle.compress.macs import macs

    model, inputs = resnet8(in_channels=1), (torch.zeros(1, 1, 8, 8),)
    layers = Densities(model, Layers(), inputs).layers
    names = [layer.name for layer in layers]
    assert names[:3] == ["conv.weight", "stage1.0.conv1.weight", "stage1.0.conv2.weight"]
    assert names[-1] == "classifier.weight"
    assert [layer.features[0] for layer in layers] == list(range(10))
    spent = macs(model, inputs)
    assert {layer.name.removesuffix(".weight"): layer.features[7] for layer in layers} == spent


def test_the_view_shows_the_curve_and_the_three_allocations(undisturbed: Result) -> None:
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115, PTH123
    console.print(result_view(undisturbed))
    text = console.export_text()
    assert "10 random episodes, then the agent's to 30" in text
    assert f"{undisturbed.amc.reward:.4f}" in text
    assert f"{undisturbed.amc.kept[0] / 1024:.1%}" in text
    assert text.count("•") == 30


def test_the_curve_can_be_drawn_while_it_grows() -> None:
    settings = Settings(episodes=120, warmup=40)
    for count in (0, 1, 50, 119):
        drawn = str(curve_view([0.1 + i / 1000 for i in range(count)], settings))
        assert drawn.count("•") == (count + 1) // 2
