"""Networks and tasks that are given as objects, and that no name leads to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dwindle.bench import bench
from dwindle.checkpoint import Checkpoint
from dwindle.compress import Request, compress, plan
from dwindle.compress.request import request_for
from dwindle.compress.watcher import Watcher
from dwindle.errors import UsageError
from dwindle.export import export
from dwindle.models.build import restore, restore_dense
from dwindle.models.tasks import restore_task
from dwindle.origin import command_line
from dwindle.task import Split


def made() -> tuple[nn.Module, Loop]:
    """A network and a task of classes that no other process can import."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 32), nn.Linear(32, 2)

        def forward(self, features: Tensor) -> Tensor:
            logits: Tensor = self.last(self.first(features).relu())
            return logits

    torch.manual_seed(0)
    return Net(), Loop()


class Loop:
    """Tells whether the sum of a sample is above zero."""

    classes = 2

    def __init__(self) -> None:
        drawn = torch.randn(400, 8, generator=torch.Generator().manual_seed(0))
        self.parts = {"train": drawn[:200], "validation": drawn[200:300], "test": drawn[300:]}

    def fit(self, model: nn.Module, *, start: float, on_step: Callable[[float], None]) -> None:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        for _ in range(20):
            loss = nn.functional.cross_entropy(model(self.parts["train"]), self.labels("train"))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            on_step(loss.item())

    def evaluate(self, model: nn.Module, split: Split) -> float:
        return 100 * float((model(self.parts[split]).argmax(1) == self.labels(split)).float().mean())

    def labels(self, split: Split) -> Tensor:
        return (self.parts[split].sum(1) > 0).long()

    def inputs(self, split: Split) -> tuple[Tensor, ...]:
        return (self.parts[split],)

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (self.parts["train"][:1],)


BUDGET = {"density": 0.5, "rounds": 1, "granularity": "unstructured", "target": "pytorch"}


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    model, task = made()
    return compress(model, tmp_path_factory.mktemp("objects") / "net.dwindle", Watcher(), task=task, **BUDGET)


@pytest.mark.slow
def test_objects_are_compressed_and_exported_to_several_targets(net: Checkpoint) -> None:
    assert net.origin["model"]["spec"].startswith("object:")
    assert net.metrics["test"] > 80
    lines: list[str] = []
    manifests = export(net, ["coreml", "onnx"], progress=lines.append)
    assert [each.target for each in manifests] == ["coreml", "onnx"]
    assert all(each.parity.relative is not None for each in manifests)
    assert any(line.startswith("coreml: ") for line in lines)
    assert f"{manifests[1].file.bytes:,}" in manifests[1]._repr_html_()


@pytest.mark.slow
def test_files_are_measured_by_a_task_that_is_an_object(net: Checkpoint) -> None:
    export(net, ["onnx"])
    measured = bench(net)
    assert {row.accuracy.value for row in measured.rows if row.accuracy} >= {net.metrics["test"]}
    assert "exports/onnx/net.onnx" in measured._repr_html_()


def test_the_given_module_stays_as_it_was(tmp_path: Path) -> None:
    model, task = made()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    compress(Request(model, task=task, **BUDGET), tmp_path / "net.dwindle", Watcher())  # type: ignore[arg-type]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_checkpoint_of_objects_is_opened_with_objects(net: Checkpoint) -> None:
    opened = Checkpoint.load(net.path)
    for restored, option in ((restore, "model"), (restore_dense, "model"), (restore_task, "task")):
        with pytest.raises(UsageError) as caught:
            restored(opened, True)
        assert (caught.value.code, caught.value.option) == ("object-needed", option)
    model, task = made()
    given = Checkpoint.load(net.path, model=model, task=task)
    sample = torch.ones(1, 8)
    assert torch.equal(restore(given)(sample), restore(net)(sample))
    assert restore_task(given).evaluate(restore(given), "test") == net.metrics["test"]


def test_the_same_objects_go_on_with_the_same_run_and_other_weights_do_not(net: Checkpoint) -> None:
    model, task = made()
    again = compress(model, net.path, Watcher(), task=task, **BUDGET)
    assert again.history == net.history
    with torch.no_grad():
        next(model.parameters()).add_(1)
    with pytest.raises(UsageError) as caught:
        compress(model, net.path, Watcher(), task=task, **BUDGET)
    assert caught.value.code == "other-options"
    assert "model.pretrained" in str(caught.value)


@pytest.mark.slow
def test_a_network_that_is_an_object_is_trained_by_a_data_sets_name(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    net = compress(model, tmp_path / "net.dwindle", Watcher(), data="digits", epochs=1, rehearsal=False, **BUDGET)
    assert net.origin["task"]["epochs"] == 1
    [manifest] = export(net, ["onnx"])
    assert manifest.parity.samples > 1
    assert plan(model, data="digits", epochs=1, rehearsal=False, **BUDGET).rounds == 1


def test_a_network_that_comes_trained_is_the_dense_one(tmp_path: Path) -> None:
    model, task = made()
    task.fit(model, start=0.0, on_step=lambda loss: None)

    class Noting(Watcher):
        notes: list[str] = []  # noqa: RUF012

        def note(self, sentence: str) -> None:
            self.notes.append(sentence)

    net = compress(model, tmp_path / "net.dwindle", Noting(), task=task, **BUDGET)
    assert net.history[0].loss is None
    assert any("came trained" in note and len(note) < 300 for note in Noting.notes)


def test_the_command_that_is_shown_says_that_objects_have_no_name(net: Checkpoint) -> None:
    said = command_line(net.origin, "net.dwindle")
    assert any(line.startswith("# object:") and "Loop" in line for line in said)


@pytest.mark.parametrize(
    ("options", "code", "option"),
    [
        ({"data": "digits", "sise": "25KB"}, "unknown-name", "sise"),
        ({"size": "25KB"}, "missing-option", "data"),
        ({"data": "digits", "task": {"data": "cifar10"}}, "conflict", "data"),
        ({"task": Loop(), "epochs": 3}, "conflict", "epochs"),
    ],
)
def test_options_that_make_no_request(options: dict[str, object], code: str, option: str) -> None:
    with pytest.raises(UsageError) as caught:
        request_for("zoo:resnet8", options)
    assert (caught.value.code, caught.value.option) == (code, option)


def test_options_replace_those_of_a_request() -> None:
    request = request_for(Request("zoo:resnet8", task={"data": "digits", "epochs": 3}, size=1), {"size": 2, "lr": 0.5})
    assert (request.size, request.task) == (2, {"data": "digits", "epochs": 3, "lr": 0.5})
    assert request_for(request, {"data": "cifar10"}).task == {"data": "cifar10"}
