"""transformers' own Trainer under dwindle: masks held, schedules rewound, trainings taken up where they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.needs("accelerate")

EPOCHS, PER_EPOCH = 3, 5
STEPS = EPOCHS * PER_EPOCH


def trainer(folder: Path, **options: Any) -> Any:
    """A Trainer of a tiny image classifier with dropout, AdamW and a cosine schedule."""
    from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    images = torch.randn(60, 1, 8, 8)
    samples = [{"pixel_values": image, "labels": int(image[0, 0, :3].argmax())} for image in images]
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
        num_channels=1,
        num_labels=3,
        hidden_dropout_prob=0.2,
    )
    others = {name: options.pop(name) for name in ("compute_metrics", "optimizers") if name in options}
    arguments = TrainingArguments(
        **{
            "output_dir": str(folder),
            "num_train_epochs": EPOCHS,
            "per_device_train_batch_size": 12,
            "learning_rate": 0.01,
            "lr_scheduler_type": "cosine",
            "save_strategy": "no",
            "report_to": "none",
            "use_cpu": True,
            **options,
        }
    )

    def accuracy(answers: Any) -> dict[str, float]:
        return {"accuracy": float((answers.predictions.argmax(-1) == answers.label_ids).mean())}

    return Trainer(
        ViTForImageClassification(config),
        arguments,
        train_dataset=samples,
        eval_dataset=samples,
        **{"compute_metrics": accuracy, **others},
    )


def task(folder: Path, **options: Any) -> Any:
    from dwindle.models import TrainerTask
    from dwindle.models.checked_task import CheckedTask

    return CheckedTask(TrainerTask(trainer(folder, **options)))


def weights(module: Any) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in module.state_dict().items()}


def equal(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_each_step_is_reported_and_its_masks_hold(tmp_path: Path) -> None:
    own, losses = task(tmp_path), []
    network = own.given.network
    name, weight = next((name, weight) for name, weight in network.named_parameters() if weight.dim() == 2)

    def on_step(loss: float) -> None:
        losses.append(loss)
        with torch.no_grad():
            weight[0] = 0

    own.fit(network, start=0.0, on_step=on_step)
    assert len(losses) == own.steps == STEPS
    assert losses[-1] < losses[0]
    assert not network.get_parameter(name)[0].any()
    judged = own.evaluate(network, "validation")
    assert judged > 50
    assert own.evaluate(lambda pixel_values: network.eval()(pixel_values), "test") == pytest.approx(
        judged
    )  # as a runtime answers
    assert own.inputs("test")[0].shape == (60, 1, 8, 8)
    assert own.example_inputs()[0].shape == (1, 1, 8, 8)


@pytest.mark.slow
def test_the_learning_rate_is_rewound_by_the_trainers_own_schedule(tmp_path: Path) -> None:
    own = task(tmp_path)
    network = own.given.network

    def rates(start: float) -> list[float]:
        seen: list[float] = []
        own.fit(network, start=start, on_step=lambda loss: seen.append(own.optimizer.param_groups[0]["lr"]))
        return seen

    whole = rates(0.0)
    assert whole == sorted(whole, reverse=True)
    assert rates(0.6) == pytest.approx(whole[9:])
    assert rates(0.0) == pytest.approx(whole)


@pytest.mark.parametrize(
    "at", [2, pytest.param(PER_EPOCH, marks=pytest.mark.slow), pytest.param(8, marks=pytest.mark.slow)]
)
def test_an_interrupted_training_ends_as_an_undisturbed_one(tmp_path: Path, at: int) -> None:
    own, saved = task(tmp_path), {}
    network = own.given.network

    def on_step(loss: float) -> None:
        if not saved and int(own.state_dict()["position"][1]) == at:
            saved.update(weights=weights(network), task=own.state_dict())

    own.fit(network, start=0.0, on_step=on_step)
    fresh = task(tmp_path)
    again = fresh.given.network
    again.load_state_dict(saved["weights"])
    fresh.load_state_dict(saved["task"], again)
    steps: list[float] = []
    fresh.fit(again, start=0.0, on_step=steps.append)
    assert len(steps) == STEPS - at
    assert equal(weights(again), weights(network))
    assert equal(fresh.state_dict(), own.state_dict())


@pytest.mark.parametrize("name", ["torch_compile", "auto_find_batch_size", "optimizers", "compute_metrics"])
def test_what_cannot_be_trained_is_refused_early(tmp_path: Path, name: str) -> None:
    from dwindle.errors import UsageError

    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], 0.1)
    given = {"optimizers": (optimizer, None), "compute_metrics": None}.get(name, True)
    with pytest.raises(UsageError) as raised:
        task(tmp_path, **{name: given})
    assert raised.value.name == name


def test_a_trainer_whose_model_has_masks_of_its_own_is_refused(tmp_path: Path) -> None:
    from torch.nn.utils import prune

    from dwindle.errors import UsageError
    from dwindle.models import TrainerTask

    given = trainer(tmp_path)
    prune.l1_unstructured(given.model.classifier, "weight", 0.5)
    with pytest.raises(UsageError) as raised:
        TrainerTask(given)
    assert raised.value.name == "pruning"


def test_a_trainer_saves_nothing_and_goes_on_as_it_was(tmp_path: Path) -> None:
    own = task(tmp_path / "out", save_strategy="epoch", max_steps=2)
    own.fit(own.given.network, start=0.0, on_step=lambda loss: None)
    assert not list(tmp_path.rglob("checkpoint-*"))
    assert own.given._trainer.args.save_strategy == "epoch"


@pytest.mark.slow
def test_a_trainer_goes_the_whole_way(tmp_path: Path) -> None:
    from dwindle.compress import Request, compress
    from dwindle.export import export

    request = Request("examples.hf_trainer:net", {"task": "examples.hf_trainer:task"}, density=0.2, rounds=1)
    done = compress(request, tmp_path / "net.dwindle")
    assert done.history[-1].density == pytest.approx(0.2, abs=0.003)
    assert done.metrics["test"] > done.metrics["dense_test"] - 3
    (manifest,) = export(done, ["onnx"], trust=True)
    assert manifest.file.bytes < manifest.dense.bytes / 2
