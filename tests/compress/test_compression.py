"""The verb as a whole, on real digits."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from dwindle.checkpoint import Checkpoint
from dwindle.compress import Request, compress, plan
from dwindle.compress.amc.allocate import allocation
from dwindle.compress.amc.search import Settings
from dwindle.compress.prepared import prepare
from dwindle.compress.watcher import Watcher
from dwindle.errors import CheckpointError, UsageError
from dwindle.export import export
from dwindle.export.shipping import as_file, running
from dwindle.export.targets import load as load_target
from dwindle.files import sha256
from dwindle.models.build import restore, restore_dense
from dwindle.models.tasks import make_task
from dwindle.models.zoo import resnet8, resnet20
from dwindle.record import Round

DIGITS = {"data": "digits", "epochs": 1}
pytestmark = pytest.mark.usefixtures("one_model")


@pytest.fixture(autouse=True)
def _float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DWINDLE_BF16", "0")


@pytest.fixture(scope="module")
def trained() -> dict[str, Tensor]:
    """Weights that were trained elsewhere: by another seed, for longer."""
    torch.manual_seed(7)
    model = resnet8(in_channels=1)
    make_task({"data": "digits", "epochs": 4, "seed": 7}).fit(model, start=0.0, on_step=lambda _: None)
    return model.state_dict()


@pytest.fixture
def weights(tmp_path: Path, trained: dict[str, Tensor]) -> Path:
    torch.save({"epoch": 4, "state_dict": trained}, tmp_path / "trained.pt")
    return tmp_path / "trained.pt"


def request(weights: Path, **options: object) -> Request:
    return Request("zoo:resnet8", DIGITS, density=0.5, rounds=2, weights=str(weights), **options)  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.needs("transformers")
def test_the_sources_weights_are_trained_further_and_recorded(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    folder = tmp_path / "tiny"
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
    theirs = ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=3, **sizes))
    theirs.save_pretrained(folder)
    asked = Request(
        f"hf:{folder}", DIGITS, density=0.5, rounds=1, target="pytorch", granularity="unstructured", pretrained=True
    )
    ready = prepare(asked)
    assert not ready.trained
    begun = ready.network.model.state_dict()["vit.embeddings.cls_token"]
    assert torch.equal(begun, theirs.state_dict()["vit.embeddings.cls_token"])
    done = compress(asked, tmp_path / "net.dwindle")
    assert done.history[0].loss is not None
    assert done.origin["pretrained"] is True
    assert done.origin["model"]["pretrained"] == ready.spec.pretrained is not None
    shutil.rmtree(folder)  # the checkpoint holds what the network is built from
    first, second = (restore(done)(torch.zeros(1, 1, 8, 8)).logits for _ in range(2))
    assert torch.equal(first, second)


@pytest.mark.slow
@pytest.mark.needs("transformers")
def test_pretrained_weights_that_know_the_classes_in_another_order(tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 20}
    labels = dict(enumerate("1023456789"))
    made = ViTConfig(image_size=8, patch_size=4, num_channels=1, id2label=labels, **sizes)
    ViTForImageClassification(made).save_pretrained(tmp_path)
    ViTImageProcessor(image_mean=[0.5], image_std=[0.5], size={"height": 8, "width": 8}).save_pretrained(tmp_path)
    asked = Request(f"hf:{tmp_path}", DIGITS, density=0.5, target="pytorch", pretrained=True)
    with pytest.raises(UsageError) as refused:
        prepare(asked)
    assert (refused.value.code, refused.value.name) == ("classes-differ", "1")


@pytest.mark.slow
def test_weights_with_another_head_are_trained(tmp_path: Path, trained: dict[str, Tensor]) -> None:
    file = tmp_path / "other.pt"
    head = {name: torch.zeros(7, *value.shape[1:]) for name, value in trained.items() if value.shape[:1] == (10,)}
    assert head
    torch.save({**trained, **head}, file)
    with pytest.raises(UsageError, match="`new_head`"):
        prepare(request(file))
    ready = prepare(request(file, new_head=True))
    assert not ready.trained
    assert any("head is fresh" in note for note in ready.notes)


def test_only_one_kind_of_trained_weights(weights: Path) -> None:
    for options in ({"pretrained": True}, {"new_head": True, "weights": None}):
        with pytest.raises(UsageError) as refused:
            prepare(Request("zoo:resnet8", DIGITS, density=0.5, **{"weights": str(weights), **options}))  # type: ignore[arg-type]
        assert (refused.value.code, refused.value.option) == ("conflict", next(iter(options)))


class Stop(Watcher):
    def __init__(self, index: int = 2) -> None:
        self.index = index

    def step(self, index: int, done: int, total: int | None, loss: float) -> None:
        if index == self.index:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_pretrained_start_is_judged_and_not_trained(
    tmp_path: Path, weights: Path, trained: dict[str, Tensor]
) -> None:
    done = compress(request(weights), tmp_path / "net.dwindle")
    model = resnet8(in_channels=1)
    model.load_state_dict(trained)
    assert done.history[0].loss is None
    assert done.history[0].density == 1
    assert done.history[0].validation == make_task(DIGITS).evaluate(model, "validation")
    assert all(torch.equal(done.dense_weights[name], value) for name, value in trained.items())
    assert done.history[1].loss is not None
    assert done.origin["weights"] == sha256(weights)
    assert str(weights) not in str(done.origin)


def test_a_checkpoint_gives_its_dense_network_and_what_that_wants_its_inputs_to_be(
    tmp_path: Path, weights: Path, trained: dict[str, Tensor]
) -> None:
    own = {**DIGITS, "normalize": "0-1"}
    (tmp_path / "checkpoint.json").write_text("{}")  # another program's, beside the file of weights
    done = compress(Request("zoo:resnet8", own, density=0.5, rounds=1, weights=str(weights)), tmp_path / "net.dwindle")
    again = prepare(request(done.path))
    assert again.trained
    assert all(torch.equal(again.network.model.state_dict()[name], value) for name, value in trained.items())
    assert again.task.preprocessing == done.preprocessing


@pytest.mark.slow
def test_a_pretrained_run_resumes_from_the_same_weights_wherever_they_lie(tmp_path: Path, weights: Path) -> None:
    undisturbed = compress(request(weights), tmp_path / "a.dwindle")
    with pytest.raises(KeyboardInterrupt):
        compress(request(weights), tmp_path / "b.dwindle", Stop())
    assert not Checkpoint.load(tmp_path / "b.dwindle").done
    with pytest.raises(UsageError) as refused:
        prepare(request(tmp_path / "b.dwindle"))  # whose dense network can't be begun with yet
    assert refused.value.code == "unfinished"
    elsewhere = shutil.move(weights, tmp_path / "moved.pt")
    resumed = compress(request(elsewhere), tmp_path / "b.dwindle")
    assert all(torch.equal(resumed.weights[name], value) for name, value in undisturbed.weights.items())
    torch.save(resnet8(in_channels=1).state_dict(), elsewhere)
    with pytest.raises(UsageError, match=r"made with other options \(weights was '"):
        compress(request(elsewhere), tmp_path / "b.dwindle")


@pytest.mark.slow
def test_a_plan_counts_no_dense_training_for_a_pretrained_start(weights: Path) -> None:
    assert plan(request(weights)).steps == 2 * (make_task(DIGITS).steps or 0)


def test_weights_of_another_model_write_nothing(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(UsageError, match=r"doesn't fit ResNet: it has no stage1\.1\.conv1\.weight"):
        compress(Request("zoo:resnet20", DIGITS, density=0.5, weights=str(weights)), tmp_path / "net.dwindle")
    assert not (tmp_path / "net.dwindle").exists()


@pytest.mark.slow
def test_every_run_keeps_its_history_and_a_resumed_one_all_of_it(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        compress(request(weights), tmp_path / "net.dwindle", Stop())
    done = compress(request(weights), tmp_path / "net.dwindle")
    entries = [json.loads(line) for line in (tmp_path / "net.dwindle/history.jsonl").read_text().splitlines()]
    events = [entry["event"] for entry in entries]
    assert events.count("begin") == events.count("end") == 2
    last = entries[len(events) - events[::-1].index("begin") :]
    logged = [entry["round/validation"] for entry in last if "round/validation" in entry]
    assert logged == [record.validation for record in done.history]
    assert any("loss" in entry for entry in last)
    assert last[-2]["test"] == done.metrics["test"]


@pytest.mark.slow
def test_amc_allocates_and_the_rounds_end_where_it_says(tmp_path: Path, weights: Path) -> None:
    heard: list[tuple[int, int, int]] = []

    class Listener(Watcher):
        def search(self, judged: int, rewards: Sequence[float], settings: Settings) -> None:
            heard.append((judged, len(rewards), settings.allocations))

    done = compress(request(weights, method="amc", episodes=3), tmp_path / "net.dwindle", Listener())
    found = allocation(done.path)
    assert found is not None
    total = heard[0][2]
    assert heard == [(judged, max(0, judged - (total - 3)), total) for judged in range(1, total + 1)]
    kept = {name: int(done.masks[name].sum()) for name in found.names}
    assert sum(abs(kept[name] - k) for name, k in zip(found.names, found.amc.kept, strict=True)) <= len(kept)
    assert done.history[-1].density == pytest.approx(0.5, abs=0.005)


def test_no_plan_for_what_only_training_can_tell() -> None:
    with pytest.raises(UsageError) as refused:
        plan(Request("zoo:resnet8", DIGITS, max_drop=1.0))
    assert refused.value.option == "max_drop"


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_round_and_the_same_command_goes_on(tmp_path: Path) -> None:
    """A real limit of the system's on the size of a file stands in for a disk: writes fail as they would there."""
    command = [sys.executable, "-m", "dwindle", "compress", "zoo:resnet8", "--data", "digits", "--epochs", "1"]
    command += ["--density", "0.4", "--rounds", "2", "--no-rehearsal", "-o", str(tmp_path / "net.dwindle")]
    limited = (
        "import resource, sys; from dwindle.cli import main; import dwindle.compress.rounds as rounds\n"
        "save = rounds.save_round\n"
        "def full(path, record, *rest, **options):\n"
        "    if record.index == 1: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
        "    save(path, record, *rest, **options)\n"
        "rounds.save_round = full\n"
        f"sys.exit(main({command[3:]!r}))"
    )
    failed = subprocess.run([sys.executable, "-c", limited], capture_output=True, text=True)
    assert failed.returncode == 1, failed.stderr
    assert "cannot write" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert [folder.name for folder in (tmp_path / "net.dwindle/rounds").iterdir()] == ["000"]
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert "resuming after round 0" in again.stderr
    straight = compress(Request("zoo:resnet8", DIGITS, density=0.4, rounds=2), tmp_path / "straight.dwindle")
    resumed = Checkpoint.load(tmp_path / "net.dwindle")
    assert all(torch.equal(resumed.weights[name], tensor) for name, tensor in straight.weights.items())


@pytest.mark.slow
def test_the_state_of_a_users_own_code_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_model.py").write_text("from dwindle.models.zoo import resnet8\ndef net(): return resnet8(10, 1)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    ask = Request("own_model:net", DIGITS, density=0.5, rounds=1)
    with pytest.raises(KeyboardInterrupt):
        compress(ask, tmp_path / "net.dwindle", Stop(1))
    assert Checkpoint.load(tmp_path / "net.dwindle").versions["code own_model:net"].startswith("sha256 ")
    with (tmp_path / "own_model.py").open("a") as file:
        file.write("# changed\n")

    class Notes(Watcher):
        said: ClassVar[list[str]] = []

        def note(self, sentence: str) -> None:
            self.said.append(sentence)

    compress(ask, tmp_path / "net.dwindle", Notes())
    assert any("own_model:net has changed since this run began" in line for line in Notes.said)


OWN = """
import torch
from torch import nn
def net(): return nn.Linear(4, 2)
def spoiled():
    model = net()
    with torch.no_grad(): model.weight[0, 0] = float("nan")
    return model
class Loop:
    trained = 0
    def fit(self, model, *, start, on_step): Loop.trained += 1
    def evaluate(self, model, split): return model(self.example_inputs()[0]).sum() if split == "validation" else None
    def example_inputs(self): return (torch.ones(1, 4),)
"""


def test_a_task_that_cannot_judge_is_known_before_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_loop.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UsageError, match="returned None on the test split") as raised:
        compress(Request("own_loop:net", {"task": "own_loop:Loop"}, density=0.5), "net.dwindle")
    assert (raised.value.code, raised.value.name) == ("bad-member", "evaluate")
    with pytest.raises(UsageError) as raised:
        compress(Request("own_loop:spoiled", {"task": "own_loop:Loop"}, density=0.5), "other.dwindle")
    assert (raised.value.code, raised.value.name) == ("not-finite", "weight")
    assert sys.modules["own_loop"].Loop.trained == 0
    assert not (tmp_path / "other.dwindle").exists()


def test_a_model_that_the_target_cannot_take_is_known_before_it_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise UsageError("cannot trace it")

    monkeypatch.setattr("dwindle.compress.size.Sizer.__call__", refuses)
    with pytest.raises(UsageError, match="cannot trace it"):
        compress(Request("zoo:resnet8", DIGITS, max_drop=1.0), tmp_path / "net.dwindle")
    assert not (tmp_path / "net.dwindle").exists()


def test_a_second_run_into_the_same_folder_is_refused(tmp_path: Path, weights: Path) -> None:
    class Second(Watcher):
        def finished(self, record: Round, rounds: int) -> None:
            with pytest.raises(UsageError, match="another run is at work"):
                compress(request(weights), tmp_path / "net.dwindle")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(request(weights), tmp_path / "net.dwindle", Second())


@pytest.mark.slow
def test_code_that_changed_under_a_resumed_run_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "grown_model.py"
    file.write_text("from dwindle.models.zoo import resnet8\ndef net(): return resnet8(10, 1)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    ask = Request("grown_model:net", DIGITS, density=0.5, rounds=1)
    with pytest.raises(KeyboardInterrupt):
        compress(ask, tmp_path / "net.dwindle", Stop(1))
    monkeypatch.setattr(sys.modules["grown_model"], "resnet8", resnet20)
    with pytest.raises(CheckpointError, match="doesn't fit ResNet"):
        compress(ask, tmp_path / "net.dwindle")


@pytest.mark.slow
def test_a_network_is_judged_by_the_weights_that_will_ship(tmp_path: Path, weights: Path) -> None:
    done = compress(request(weights, precision="int8"), tmp_path / "net.dwindle")
    task, inputs = make_task(DIGITS), make_task(DIGITS).example_inputs()
    rounded = as_file(load_target("onnx", "int8"), restore(done), inputs)
    assert done.history[-1].validation == task.evaluate(rounded, "validation")
    assert done.metrics["test"] == task.evaluate(rounded, "test")
    assert done.history[0].validation == task.evaluate(restore_dense(done), "validation")


@pytest.mark.slow
def test_where_activations_are_rounded_too_a_network_is_judged_by_the_file_itself(
    tmp_path: Path, weights: Path
) -> None:
    asked = request(weights, target="executorch", precision="w8a8", granularity="unstructured")
    done = compress(asked, tmp_path / "net.dwindle")
    manifest = export(done, ["executorch"])[0]
    assert manifest.precision == "w8a8"
    path = done.exports / "executorch" / "net.pte"

    file = running(load_target("executorch", "w8a8"), path)
    assert done.history[-1].validation == make_task(DIGITS).evaluate(file, "validation")


@torch.no_grad()
def test_shipped_weights_are_rounded_after_folding_and_pruned_ones_stay_zero(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10)).eval()
    network[1].running_var.uniform_(0.1, 2.0)
    network[4].weight[:, ::2] = 0
    x = torch.randn(1, 1, 8, 8)
    assert as_file(load_target("onnx", "fp32"), network, (x,)) is network
    rounded = as_file(load_target("onnx", "int8"), network, (x,))
    zeros = [int((parameter == 0).sum()) for parameter in rounded.parameters() if parameter.shape == (10, 288)]
    assert zeros[0] >= 1440
    assert 1e-4 < float((rounded(x) - network(x)).abs().max()) < 0.1


class Listening(Watcher):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, sentence: str) -> None:
        self.notes.append(sentence)


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_threads_and_the_precision_it_began_with(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    monkeypatch.setenv("DWINDLE_BF16", "1")
    torch.set_num_threads(2)
    try:
        whole = compress(request(weights), tmp_path / "whole.dwindle")
        with pytest.raises(KeyboardInterrupt):
            compress(request(weights), tmp_path / "net.dwindle", Stop())
    finally:
        torch.set_num_threads(1)
    monkeypatch.setenv("DWINDLE_BF16", "0")
    listening = Listening()
    resumed = compress(request(weights), tmp_path / "net.dwindle", listening)
    assert all(torch.equal(value, whole.weights[name]) for name, value in resumed.weights.items())
    assert resumed.numerics == whole.numerics
    assert [note for note in listening.notes if "threads 2 (here 1)" in note and "bf16 on (here off)" in note]
    assert torch.get_num_threads() == 1
