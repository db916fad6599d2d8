"""Networks and tasks from public bug reports of pruning tools, through whole runs: small, and as a user writes them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torchvision.models.feature_extraction import create_feature_extractor

from dwindle.checkpoint import Checkpoint
from dwindle.compress import compress
from dwindle.compress.watcher import Watcher
from dwindle.errors import UsageError
from dwindle.export import export

OnStep = Callable[[float], None]
CHANNELS: dict[str, Any] = {"macs": 0.6, "granularity": "channel", "align": 1, "rounds": 1, "target": "pytorch"}
WEIGHTS: dict[str, Any] = {"density": 0.5, "granularity": "unstructured", "rounds": 1, "target": "pytorch"}
BOTH = pytest.mark.parametrize("how", [CHANNELS, WEIGHTS], ids=["channels", "weights"])


class Task:
    """Brings every float that the network answers with nearer to a half."""

    metric, steps = "nearness", 4

    def __init__(self, *inputs: Tensor) -> None:
        self.all = inputs

    def loss(self, model: nn.Module) -> Tensor:
        floats = [one for one in tree_leaves(model(*self.all)) if isinstance(one, Tensor) and one.is_floating_point()]
        return torch.stack([(one - 0.5).square().mean() for one in floats]).sum()

    def fit(self, model: nn.Module, *, start: float, on_step: OnStep) -> None:
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.train(model, torch.optim.Adam(trained, 1e-2), on_step)

    def train(self, model: nn.Module, optimizer: torch.optim.Optimizer, on_step: OnStep) -> None:
        for _ in range(self.steps):
            loss = self.loss(model.train())
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            on_step(loss.item())

    def evaluate(self, model: nn.Module, split: str) -> float:
        with torch.no_grad():
            return -float(self.loss(model.eval()))

    def example_inputs(self) -> tuple[Tensor, ...]:
        return tuple(tensor[:1] for tensor in self.all)

    def inputs(self, split: str) -> tuple[Tensor, ...]:
        return self.all


class Notes(Watcher):
    def __init__(self) -> None:
        self.noted: list[str] = []

    def note(self, sentence: str) -> None:
        self.noted.append(sentence)


VECTORS, IMAGES, STEPS = torch.randn(8, 6), torch.randn(8, 3, 8, 8), torch.randn(8, 5, 6)


def run(folder: Path, network: nn.Module, task: Task, how: dict[str, Any], **more: Any) -> tuple[Checkpoint, list[str]]:
    """Compresses and exports, as a user does; what was made, and what was said of it."""
    torch.manual_seed(0)
    notes = Notes()
    made = compress(network, folder / "net.dwindle", notes, task=task, **{**how, **more})
    (manifest,) = export(made, [made.origin["target"]])
    assert manifest.parity.relative is not None
    assert made.history[-1].density < 0.7
    return made, notes.noted


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))


class Attends(nn.Module):
    """Keeps its attention map, in an attribute and in a list, and through a hook a feature in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.query, self.key, self.value, self.last = (nn.Linear(a, 16) for a in (6, 16, 16, 16, 16))
        self.maps: list[Tensor] = []
        self.features: dict[str, Tensor] = {}
        self.embed.register_forward_hook(lambda _, args, output: self.features.update(embedded=output))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).relu()
        self.map = (self.query(x) @ self.key(x).mT).softmax(-1)
        self.maps.append(self.map)
        answer: Tensor = self.last(self.map @ self.value(x)).mean(1)
        return answer


def old_normed() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        first = nn.utils.spectral_norm(nn.Conv2d(3, 12, 3))  # type: ignore[no-untyped-call]
        second = nn.utils.weight_norm(nn.Conv2d(12, 12, 1))  # type: ignore[no-untyped-call]
    rest = (nn.ReLU(), nn.Conv2d(12, 12, 3), nn.ReLU(), nn.Conv2d(12, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(first, nn.ReLU(), second, *rest)


@pytest.mark.slow
@BOTH
@pytest.mark.filterwarnings("error:Accessing the data pointer of FakeTensor")
def test_a_network_that_keeps_what_it_computes(how: dict[str, Any], tmp_path: Path) -> None:
    run(tmp_path, Attends(), Task(STEPS), how)


@pytest.mark.slow
def test_a_network_that_keeps_what_it_computes_reaches_its_file_in_int8(tmp_path: Path) -> None:
    run(tmp_path, Attends(), Task(STEPS), WEIGHTS, target="onnx", precision="int8", qat=0.5)


@pytest.mark.slow
@BOTH
def test_the_old_norms_of_weights(how: dict[str, Any], tmp_path: Path) -> None:
    run(tmp_path, old_normed(), Task(IMAGES), {**how, **({"macs": 0.8} if "macs" in how else {})})


@pytest.mark.slow
def test_a_graph_module_of_several_outputs(tmp_path: Path) -> None:
    """create_feature_extractor makes one of two graphs, which `train` and `eval` exchange."""
    layers = [nn.Conv2d(3, 12, 3), nn.Dropout(), nn.Conv2d(12, 12, 3), nn.ReLU(), nn.Conv2d(12, 4, 1)]
    made, _ = run(
        tmp_path, create_feature_extractor(nn.Sequential(*layers), {"3": "low", "4": "top"}), Task(IMAGES), CHANNELS
    )
    assert made.signature is not None
    assert [output.name for output in made.signature.outputs] == ["low", "top"]


class KeepsOptimizer(Task):
    """Its optimizer has another name than the protocol's, and so is not told of smaller parameters."""

    adam: torch.optim.Optimizer | None = None

    def fit(self, model: nn.Module, *, start: float, on_step: OnStep) -> None:
        self.adam = self.adam or torch.optim.Adam(model.parameters(), 1e-2)
        self.train(model, self.adam, on_step)


def test_an_optimizer_of_the_network_before_the_cut_is_caught(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        run(tmp_path, perceptron(), KeepsOptimizer(VECTORS), CHANNELS)
    assert (refused.value.code, refused.value.name) == ("bad-member", "fit")
    run(tmp_path / "masked", perceptron(), KeepsOptimizer(VECTORS), WEIGHTS)  # whose parameters stay the same ones


class Averages(Task):
    def fit(self, model: nn.Module, *, start: float, on_step: OnStep) -> None:
        average = torch.optim.swa_utils.AveragedModel(model)

        def step(loss: float) -> None:
            average.update_parameters(model)
            on_step(loss)

        super().fit(model, start=start, on_step=step)
        model.load_state_dict(average.module.state_dict())


class StartsBest(Task):
    """Every epoch is worse than what it began with, which it loads again."""

    def fit(self, model: nn.Module, *, start: float, on_step: OnStep) -> None:
        best = copy.deepcopy(model.state_dict())
        super().fit(model, start=start, on_step=on_step)
        model.load_state_dict(best)


class FirstBest(Task):
    """The best epoch was one of the dense training, whose zeros are none."""

    best: dict[str, Tensor] | None = None

    def fit(self, model: nn.Module, *, start: float, on_step: OnStep) -> None:
        super().fit(model, start=start, on_step=on_step)
        self.best = self.best or copy.deepcopy(model.state_dict())
        model.load_state_dict(self.best)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (Averages, True),
        pytest.param(StartsBest, False, marks=pytest.mark.slow),
        pytest.param(FirstBest, True, marks=pytest.mark.slow),
    ],
)
def test_a_fit_that_ends_by_loading_something(task: type[Task], said: bool, tmp_path: Path) -> None:
    made, notes = run(tmp_path, perceptron(), task(VECTORS), WEIGHTS)
    assert made.history[-1].density == pytest.approx(0.5, abs=0.01)
    assert any("set to zero again" in note for note in notes) is said


class Bare(nn.Module):
    """A matrix that is no layer's weight, and is computed with before activations are multiplied by it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 2)
        self.matrix = nn.Parameter(torch.randn(16, 16))

    def forward(self, x: Tensor) -> Tensor:
        answer: Tensor = self.last(self.first(x) @ (self.matrix * 2))
        return answer


def test_what_include_names_is_pruned_and_not_said_to_be_left(tmp_path: Path) -> None:
    made, notes = run(tmp_path, Bare(), Task(VECTORS), WEIGHTS, include=("matrix", "first"))
    assert set(made.masks) == {"matrix", "first.weight"}
    assert not any("not pruned" in note for note in notes)


class Mixed(nn.Module):
    """Computes in bfloat16 for a while, within that in float32, and without gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv2d(3, 12, 3), nn.BatchNorm2d(12), nn.Linear(12, 2)
        self.wide, self.exact = nn.Conv2d(12, 12, 3), nn.Conv2d(12, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        with torch.autocast("cpu", torch.bfloat16):
            x = self.wide(self.norm(x).relu()).relu()
            with torch.autocast("cpu", enabled=False):
                x = self.exact(x.float()).relu()
        with torch.no_grad():
            half = x / 2
        with torch.enable_grad():
            answer: Tensor = self.last((x - half).mean((2, 3)))
        return answer


@pytest.mark.slow
def test_what_is_computed_under_another_mode_loses_channels(tmp_path: Path) -> None:
    made, _ = run(tmp_path, Mixed(), Task(IMAGES), CHANNELS, target="onnx")
    assert {layer.layer for layer in made.uncut} == {"last"}
    assert made.history[0].macs == 36 * 3 * 9 * 12 + 16 * 12 * 9 * 12 + 16 * 12 * 12 + 12 * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("channels", "groups", "before", "after"),
    [
        (12, 3, 1, 1),
        (12, 2, 4, 4),
        (12, 6, 6, 12),
    ],
)
def test_shuffled_channels(channels: int, groups: int, before: int, after: int, tmp_path: Path) -> None:
    """Whatever goes is proven, in the first cut and in the next; what would leave no whole groups stays."""
    shuffled = (nn.Conv2d(channels, channels, 1, groups=before), nn.ChannelShuffle(groups), nn.ReLU())
    last = (nn.Conv2d(channels, channels, 3, groups=after), nn.ReLU(), nn.Conv2d(channels, 4, 1))
    network = nn.Sequential(nn.Conv2d(3, channels, 3), *shuffled, *last, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    made, _ = run(tmp_path, network, Task(IMAGES), CHANNELS, rounds=2)
    assert {layer.layer for layer in made.uncut} == {"6"}
