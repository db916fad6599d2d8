import base64
import io
from typing import cast

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dwindle.bench.accuracy import EXAMPLES, Judged, agreement, judge, with_accuracy
from dwindle.bench.process import Worker
from dwindle.bench.result import Artifact, Row, RuntimeUsed
from dwindle.bench.rows import failed
from dwindle.models.checked_task import CheckedTask
from dwindle.preprocessing import Preprocessing
from dwindle.task import Task
from tests.tasks import PlainTask


class InProcess:
    """A worker without a process."""

    def __init__(self, net: nn.Module) -> None:
        self.net, self.shapes = net, set[tuple[int, ...]]()

    def infer(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        self.shapes.add(inputs[0].shape)
        with torch.no_grad():
            return [self.net(*map(torch.from_numpy, inputs)).numpy()]


@pytest.fixture
def task(blobs: None) -> Task:
    from blobs import Blobs  # type: ignore[import-not-found]

    return cast(Task, Blobs())


def test_a_file_is_judged_as_its_network_would_be(task: Task, nets: tuple[nn.Module, nn.Module]) -> None:
    worker = InProcess(nets[0])
    found = judge(CheckedTask(task), cast(Worker, worker)).accuracy
    assert found.value == task.evaluate(nets[0], "test")
    assert worker.shapes == {(1, 1, 8, 8)}
    assert (found.metric, found.n, found.split) == ("accuracy", 40, "test")
    assert found.interval is not None
    assert found.interval[0] < found.value < found.interval[1]


def test_a_metric_that_is_no_share_of_samples_has_no_interval(task: Task) -> None:
    class Distance(type(task)):  # type: ignore[misc]
        metric = "mean logit"

        def evaluate(self, model: nn.Module, split: str) -> float:
            return float(model(self.images).mean())

    found = judge(CheckedTask(Distance()), cast(Worker, InProcess(lambda x: x.flatten(1) / 7))).accuracy  # type: ignore[arg-type]
    assert found.metric == "mean logit"
    assert found.n == 40
    assert found.interval is None


def test_several_inputs_and_outputs_pass_through(task: Task) -> None:
    class Sum(nn.Module):
        def infer(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
            assert [array.shape for array in inputs] == [(1, 3), (1, 2)]
            return [inputs[0] * 2, inputs[1] + 1]

    class Both(PlainTask):
        def evaluate(self, model: nn.Module, split: str) -> float:
            a, b = torch.rand(5, 3), torch.rand(5, 2)
            outputs: tuple[Tensor, Tensor] = model(a, b)
            assert torch.equal(outputs[0], a * 2)
            assert torch.equal(outputs[1], b + 1)
            return 100.0

    found = judge(CheckedTask(Both()), cast(Worker, Sum())).accuracy
    assert (found.value, found.n) == (100.0, 5)


def judged(task: Task, net: object) -> Judged:
    return judge(CheckedTask(task), cast(Worker, InProcess(net)))  # type: ignore[arg-type]


class Table:
    """Answers the k-th sample with the k-th row, whatever the sample is."""

    def __init__(self, rows: Tensor) -> None:
        self.rows = iter(rows)

    def __call__(self, sample: Tensor) -> Tensor:
        return next(self.rows)[None]


def test_top_1_and_top_5_are_the_labels_among_the_largest(task: Task) -> None:
    labels = torch.arange(40) % 10
    scores = -((torch.arange(10) - labels[:, None]) % 10).float()  # the label first, the next class second, …
    found = judged(task, Table(scores.roll(-1, 1))).accuracy  # the label second
    assert found.top1 is not None
    assert found.top5 is not None
    assert (found.top1.value, found.top5.value) == (found.value, 100.0) == (0.0, 100.0)
    assert found.top5.interval[1] == pytest.approx(100)
    assert 90 < found.top5.interval[0] < 92  # Wilson at 40 of 40: 91.2
    found = judged(task, Table(scores.roll(-5, 1))).accuracy  # the label sixth
    assert found.top5 is not None
    assert found.top5.value == 0


def test_equal_scores_are_ranked_as_argmax_ranks_them(task: Task) -> None:
    found = judged(task, Table(torch.zeros(40, 100)))  # as many as a sort that isn't stable would shuffle
    assert found.accuracy.top1 is not None
    assert found.accuracy.top1.value == found.accuracy.value == 10.0
    assert found.answers is not None
    assert not found.answers.classes.any()


def test_what_changed_class_is_counted_and_named(task: Task) -> None:
    labels = torch.arange(40) % 10
    dense, file = labels.clone(), labels.clone()
    dense[0] = 5  # the file alone is right
    file[[1, 12, 23, 34]] = 0  # the dense file alone is right
    dense[2], file[2] = 7, 8  # neither is, and they differ
    one_hot = torch.nn.functional.one_hot
    found, why = agreement(judged(task, Table(one_hot(file))), judged(task, Table(one_hot(dense))), "dense.onnx")
    assert found is not None, why
    assert (found.changed, found.samples) == (6, (0, 1, 2, 12, 23, 34))
    assert found.value == pytest.approx(100 * 34 / 40)
    assert found.interval[0] < found.value < found.interval[1]
    assert (found.mcnemar.lost, found.mcnemar.won) == (4, 1)
    assert found.mcnemar.p == pytest.approx(0.375)  # 2 (1 + 5) / 2^5
    everything, _ = agreement(judged(task, Table(one_hot((labels + 1) % 10))), judged(task, Table(one_hot(labels))), "")
    assert everything is not None
    assert (everything.changed, len(everything.samples)) == (40, EXAMPLES)


def without_labels(task: Task) -> Task:
    class Silent(type(task)):  # type: ignore[misc]
        labels = None

    return cast(Task, Silent())


def test_without_labels_there_is_the_metric_and_a_reason(task: Task, nets: tuple[nn.Module, nn.Module]) -> None:
    found = judged(without_labels(task), nets[0])
    assert found.accuracy.value == task.evaluate(nets[0], "test")
    assert found.accuracy.top1 is found.accuracy.top5 is None
    assert "`labels`" in found.missing["accuracy.top1"]
    assert agreement(found, judged(task, nets[1]), "dense.onnx") == (None, found.missing["agreement"])


def test_labels_that_do_not_fit_what_evaluate_says_are_not_believed(
    task: Task, nets: tuple[nn.Module, nn.Module]
) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():  # each class's mean image: right nearly always
        images, labels = task.images, task.labels("test")  # type: ignore[attr-defined]
        net[1].weight.copy_(torch.stack([images[labels == k].mean(0).flatten() for k in range(10)]))
    assert task.evaluate(net, "test") > 80

    class Shuffled(type(task)):  # type: ignore[misc]
        def labels(self, split: str) -> Tensor:
            return cast(Tensor, self.truth).roll(1)

    class Short(type(task)):  # type: ignore[misc]
        def labels(self, split: str) -> Tensor:
            return cast(Tensor, self.truth)[:-1]

    assert judged(task, net).accuracy.top1 is not None
    for odd, says in ((Shuffled(), "other order"), (Short(), "40 samples")):
        found = judged(odd, net)
        assert found.accuracy.top1 is found.answers is None
        assert says in found.missing["agreement"]


def test_files_that_were_fed_differently_are_not_compared(task: Task, nets: tuple[nn.Module, nn.Module]) -> None:
    class Backwards(type(task)):  # type: ignore[misc]
        truth: Tensor
        images: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.truth, self.images = self.truth.flip(0), self.images.flip(0)

    found, why = agreement(judged(Backwards(), nets[0]), judged(task, nets[0]), "dense.onnx")
    assert found is None
    assert "different samples" in why


def test_few_classes_have_no_top_5(task: Task, nets: tuple[nn.Module, nn.Module]) -> None:
    class Five(type(task)):  # type: ignore[misc]
        truth: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.truth = self.truth % 5

    found = judged(Five(), Table(torch.eye(5)[torch.arange(40) % 5]))
    assert found.accuracy.top1 is not None
    assert found.accuracy.top1.value == 100
    assert found.accuracy.top5 is None
    assert found.missing["accuracy.top5"] == "5 classes"


def test_the_built_in_tasks_labels_are_in_its_own_order() -> None:
    from dwindle.models.tasks import make_task

    task = make_task({"data": "digits"})
    images = task.inputs("test")[0]
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 10))
    found = judged(task.given, net)
    assert found.accuracy.top1 is not None, found.missing
    assert found.accuracy.top1.value == pytest.approx(found.accuracy.value)
    assert 0 < found.accuracy.value < 100
    labels = task.labels("test")
    assert labels is not None
    assert torch.equal(labels, task.given.splits["test"].labels)  # type: ignore[attr-defined]


class Opened(InProcess):
    """A worker as `with_accuracy` starts one."""

    def __enter__(self) -> "Opened":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def load(self, sample: list[np.ndarray]) -> None:
        pass


def fails(_: Tensor) -> Tensor:
    raise RuntimeError("out of memory")


def row(role: str, *, runs: bool = True) -> Row:
    artifact = Artifact(f"{role}.onnx", role, "onnx", 1, 1)
    made = Row("onnx", role, "fp32", "dense", artifact, RuntimeUsed("r", "1", 1), 1.0)
    return made if runs else failed(made, "it crashed")


def filled(
    task: Task, dense: object, compressed: object, *, runs: bool = True, how: Preprocessing | None = None
) -> list[Row]:
    files = {"dense.onnx": dense, "compressed.onnx": compressed}
    starts = {path: lambda net=net: cast(Worker, Opened(net)) for path, net in files.items()}
    rows = [row("dense", runs=runs), row("compressed")]
    return with_accuracy(CheckedTask(task), rows, starts, [], lambda line: None, preprocessing=how)


def test_rows_are_filled_in_with_what_the_pair_did(task: Task, nets: tuple[nn.Module, nn.Module]) -> None:
    dense, compressed = filled(task, *nets)
    assert dense.accuracy is not None
    assert dense.accuracy.value == task.evaluate(nets[0], "test")
    assert dense.agreement is None
    assert dense.reasons["agreement"] == "it is the baseline"
    assert compressed.agreement is not None
    assert compressed.agreement.baseline == "dense.onnx"
    assert "agreement" not in compressed.reasons


def test_outputs_that_are_no_known_classes_are_compared_as_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Boxes(PlainTask):
        samples = 5

        def evaluate(self, model: nn.Module, split: str) -> float:
            return float(model(torch.ones(self.samples, 4)).mean())

        def example_inputs(self) -> tuple[Tensor, ...]:
            return (torch.ones(1, 4),)

    task = Boxes()
    dense, compressed = filled(task, lambda x: x[:, None] * 2, lambda x: x[:, None] * 2.02)
    assert dense.outputs is None
    assert compressed.outputs is not None
    assert compressed.outputs.sqnr == {"output": pytest.approx(40, abs=1e-3)}
    assert (compressed.outputs.baseline, compressed.outputs.n) == ("dense.onnx", 5)
    monkeypatch.setattr("dwindle.bench.accuracy.HELD", 3 * 4 * 4)
    _, few = filled(task, lambda x: x[:, None], lambda x: x[:, None])
    assert few.outputs is not None
    assert (few.outputs.n, few.outputs.sqnr) == (3, {"output": 144.0})

    class Shrinking(Boxes):
        def evaluate(self, model: nn.Module, split: str) -> float:
            self.samples -= 1
            return super().evaluate(model, split)

    assert filled(Shrinking(), lambda x: x[:, None], lambda x: x[:, None])[1].outputs is None


def test_samples_that_change_class_are_kept_as_pictures(task: Task) -> None:
    labels = torch.arange(40) % 10
    changed = labels.clone()
    changed[[3, 7, *range(20, 39)]] += 1
    one_hot = torch.nn.functional.one_hot
    tables = [Table(one_hot(each % 10)) for each in (labels, changed)]
    _, compressed = filled(task, *tables, how=Preprocessing(mean=(0.5,), std=(0.25,), colours="L"))
    assert compressed.agreement is not None
    pictures = compressed.agreement.pictures
    assert tuple(one.sample for one in pictures) == compressed.agreement.samples
    assert [(one.label, one.before, one.now) for one in pictures[:2]] == [(3, 3, 4), (7, 7, 8)]
    assert all(Image.open(io.BytesIO(base64.b64decode(one.png))).size == (8, 8) for one in pictures)
    tables = [Table(one_hot(each % 10)) for each in (labels, changed)]
    _, unknown = filled(task, *tables)
    assert unknown.agreement is not None
    assert (unknown.agreement.changed, unknown.agreement.pictures) == (21, ())


def test_a_file_that_cannot_be_judged_costs_its_own_figures(task: Task, nets: tuple[nn.Module, nn.Module]) -> None:
    dense, compressed = filled(task, nets[0], fails)
    assert dense.accuracy is not None
    assert compressed.accuracy is None
    assert "RuntimeError: out of memory" in compressed.reasons["accuracy"] == compressed.reasons["agreement"]
    for runs, net in ((True, fails), (False, nets[0])):
        dense, compressed = filled(task, net, nets[1], runs=runs)
        assert dense.accuracy is None
        assert compressed.accuracy is not None
        assert compressed.reasons["agreement"] == "the dense file could not be evaluated"
