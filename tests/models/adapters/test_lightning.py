"""Lightning's own Trainer under dwindle: masks held, schedules rewound, trainings taken up where they were."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytestmark = pytest.mark.needs("lightning")

EPOCHS, PER_EPOCH = 3, 5
STEPS = EPOCHS * PER_EPOCH


def made(**options: Any) -> Any:
    """A small LightningModule with dropout, Adam and a schedule; `options` are attributes that it gets."""
    from lightning.pytorch import LightningModule
    from torch.nn import functional

    class Module(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.3), nn.Linear(16, 3))
            self.epochs: list[int] = []

        def forward(self, x: Any) -> Any:
            return self.net(x)

        def training_step(self, batch: Any, index: int) -> Any:
            x, y = batch
            self.epochs.append(self.current_epoch)
            return functional.cross_entropy(self(x + 0.1 * torch.randn_like(x)), y)

        def validation_step(self, batch: Any, index: int) -> None:
            x, y = batch
            self.log("val_acc", (self(x).argmax(1) == y).float().mean())

        def test_step(self, batch: Any, index: int) -> None:
            x, y = batch
            self.log("test_acc", (self(x).argmax(1) == y).float().mean())

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.Adam(self.parameters(), lr=0.01)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    torch.manual_seed(0)
    module = Module()
    for name, value in options.items():
        setattr(module, name, value)
    return module


def data() -> Any:
    from lightning.pytorch import LightningDataModule
    from torch.utils.data import DataLoader, TensorDataset

    class Data(LightningDataModule):
        def setup(self, stage: str | None = None) -> None:
            x = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
            self.whole = TensorDataset(x, x[:, :3].argmax(1))

        def train_dataloader(self) -> Any:
            return DataLoader(self.whole, batch_size=12, shuffle=True)

        def val_dataloader(self) -> Any:
            return DataLoader(self.whole, batch_size=30)

        def test_dataloader(self) -> Any:
            return DataLoader(self.whole, batch_size=30)

    return Data()


def task(module: Any = None, **options: Any) -> Any:
    from dwindle.models import LightningTask
    from dwindle.models.checked_task import CheckedTask

    return CheckedTask(
        LightningTask(module or made(), data(), **{"max_epochs": EPOCHS, "accelerator": "cpu", **options})
    )


def weights(module: nn.Module) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def rates_of(own: Any, network: Any, start: float) -> list[float]:
    rates: list[float] = []
    own.fit(network, start=start, on_step=lambda loss: rates.append(own.optimizer.param_groups[0]["lr"]))
    return rates


def test_each_step_is_reported_and_its_masks_hold() -> None:
    network, own, losses = made(), task(), []

    def on_step(loss: float) -> None:
        losses.append(loss)
        with torch.no_grad():
            network.net[0].weight[0] = 0

    own.fit(network, start=0.0, on_step=on_step)
    assert len(losses) == own.steps == STEPS
    assert losses[-1] < losses[0]
    assert not network.net[0].weight[0].any()
    copy.deepcopy(network)  # no trainer is left hanging on it
    assert own.evaluate(network, "validation") == own.evaluate(network, "test") > 50
    assert own.inputs("test")[0].shape == (60, 6)
    assert own.example_inputs()[0].shape == (1, 6)


def test_the_learning_rate_is_rewound_by_the_modules_own_schedule() -> None:
    network, own = made(), task()
    whole = rates_of(own, network, 0.0)
    assert whole == sorted(whole, reverse=True)
    rewound = rates_of(own, network, 0.6)
    assert rewound == pytest.approx(whole[9:])
    assert network.epochs[-6:] == [1, 2, 2, 2, 2, 2]


def test_momentum_goes_on_from_one_training_to_the_next() -> None:
    network, own = made(), task()
    own.fit(network, start=0.0, on_step=lambda loss: None)
    seen: list[float] = []
    own.fit(
        network,
        start=0.0,
        on_step=lambda loss: seen.append(float(own.optimizer.state[network.net[0].weight]["step"])),
    )
    assert seen[0] == STEPS + 1


@pytest.mark.parametrize(
    "at", [2, pytest.param(PER_EPOCH, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)]
)
def test_an_interrupted_training_ends_as_an_undisturbed_one(at: int) -> None:
    network, own, saved = made(), task(), {}

    def on_step(loss: float) -> None:
        if len(saved) == 0 and int(own.state_dict()["position"][1]) == at:
            saved.update(weights=weights(network), task=own.state_dict())

    own.fit(network, start=0.0, on_step=on_step)
    again, fresh = made(), task()
    again.load_state_dict(saved["weights"])
    fresh.load_state_dict(saved["task"], again)
    steps: list[float] = []
    fresh.fit(again, start=0.0, on_step=steps.append)
    assert len(steps) == STEPS - at
    assert equal(weights(again), weights(network))
    assert equal(fresh.state_dict(), own.state_dict())


def test_accumulated_batches_make_one_step() -> None:
    network, own, losses = made(), task(accumulate_grad_batches=2), []
    own.fit(network, start=0.0, on_step=losses.append)
    assert len(losses) == own.steps == EPOCHS * 3


def test_a_part_of_the_module_can_be_the_network() -> None:
    module = made()
    own = task(module, network="net")
    network = copy.deepcopy(module.net)
    before = weights(module)
    own.fit(network, start=0.0, on_step=lambda loss: None)
    assert equal(weights(module), before)
    judged = own.evaluate(network, "test")
    assert judged > 50
    assert own.evaluate(lambda x: network.eval()(x), "test") == judged  # as a runtime answers


def test_a_runtimes_answers_are_judged_in_the_modules_place() -> None:
    network, own = made(), task()
    own.fit(network, start=0.0, on_step=lambda loss: None)
    network.eval()
    assert own.evaluate(lambda x: network.net(x), "test") == own.evaluate(network, "test")
    assert own.evaluate(lambda x: torch.zeros(len(x), 3), "test") != own.evaluate(network, "test")


def test_a_validation_step_that_passes_a_runtime_by_is_no_figure_of_it() -> None:
    from dwindle.errors import UsageError

    def around(batch: Any, batch_idx: int) -> None:
        module.log("val_acc", (module.net(batch[0]).argmax(1) == batch[1]).float().mean())

    module = made()
    module.validation_step = around
    with pytest.raises(UsageError) as raised:
        task(module).evaluate(lambda x: torch.zeros(len(x), 3), "validation")
    assert raised.value.name == "evaluate"


@pytest.mark.parametrize(
    ("attributes", "options", "name"),
    [
        ({"automatic_optimization": False}, {}, "automatic_optimization"),
        (
            {"configure_optimizers": lambda: [torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1) for _ in range(2)]},
            {},
            "configure_optimizers",
        ),
        ({}, {"network": "body"}, "body"),
        ({"head": nn.Linear(2, 2)}, {"network": "net"}, "head.weight"),
    ],
)
def test_what_cannot_be_trained_is_refused_early(
    attributes: dict[str, Any], options: dict[str, Any], name: str
) -> None:
    from dwindle.errors import UsageError

    with pytest.raises(UsageError) as raised:
        task(made(**attributes), **options)
    assert raised.value.name == name


@pytest.mark.parametrize("several", [True, False])
def test_optimizers_that_ask_the_trainer_are_looked_at_when_there_is_one(several: bool) -> None:
    from dwindle.errors import UsageError

    def configure() -> Any:
        assert module.trainer.max_epochs
        one = torch.optim.SGD(module.parameters(), 0.1)
        return [one, torch.optim.SGD(module.parameters(), 0.1)] if several else None

    module = made(configure_optimizers=configure)
    own = task(module)
    with pytest.raises(UsageError) as raised:
        own.fit(module, start=0.0, on_step=lambda loss: None)
    assert (raised.value.code, raised.value.name) == ("unsupported", "configure_optimizers")
    assert module.configure_optimizers is configure


@pytest.mark.parametrize("by_callback", [True, False])
def test_a_module_with_masks_of_its_own_is_refused(by_callback: bool) -> None:
    from lightning.pytorch.callbacks import ModelPruning
    from torch.nn.utils import prune

    from dwindle.errors import UsageError

    module = made()
    callbacks = [ModelPruning("l1_unstructured", amount=0.5)] if by_callback else []
    if not by_callback:
        prune.l1_unstructured(next(each for each in module.modules() if isinstance(each, nn.Linear)), "weight", 0.5)
    with pytest.raises(UsageError) as raised:
        task(module, callbacks=callbacks)
    assert raised.value.name == "pruning"


def test_a_metric_that_is_not_logged_names_those_that_are() -> None:
    from dwindle.errors import UsageError

    with pytest.raises(UsageError, match="val_acc") as raised:
        task(metric="f1").evaluate(made(), "validation")
    assert raised.value.option == "metric"


@pytest.mark.slow
def test_a_module_goes_the_whole_way(tmp_path: Path) -> None:
    from dwindle.compress import Request, compress
    from dwindle.export import export

    request = Request(
        "examples.lightning_module:net", {"task": "examples.lightning_module:task"}, density=0.2, rounds=2
    )
    done = compress(request, tmp_path / "net.dwindle")
    assert done.history[-1].density == pytest.approx(0.2, abs=0.001)
    assert done.metrics["test"] > done.metrics["dense_test"] - 3
    assert done.metrics["test"] > 80
    (manifest,) = export(done, ["onnx"], trust=True)
    assert manifest.file.bytes < manifest.dense.bytes / 3
