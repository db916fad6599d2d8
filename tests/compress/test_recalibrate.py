from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from dwindle.compress import Request, compress
from dwindle.compress.recalibrate import BATCH, recalibrate
from dwindle.errors import UsageError
from dwindle.models.build import restore
from dwindle.models.classify import ImageClassification
from dwindle.models.tasks import make_task


def network() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.ReLU(), nn.Dropout(0.5))
    model.append(nn.Conv2d(4, 5, 3)).append(nn.BatchNorm2d(5))
    return model.eval()


def test_statistics_become_those_of_the_inputs_averaged_over_batches() -> None:
    model = network()
    images = torch.randn(2 * BATCH, 3, 8, 8) * 3 + 1
    recalibrate(model, (images,))
    activations = model[0](images).detach()
    variances = torch.stack([half.var((0, 2, 3)) for half in activations.split(BATCH)])
    assert torch.allclose(model[1].running_mean, activations.mean((0, 2, 3)), atol=1e-5)
    assert torch.allclose(model[1].running_var, variances.mean(0), rtol=1e-4)


def test_later_norms_see_what_inference_shows_them_without_dropout() -> None:
    model = network()
    images = torch.randn(BATCH, 3, 8, 8)
    recalibrate(model, (images,))
    assert torch.allclose(model[5].running_mean, model[:5](images).detach().mean((0, 2, 3)), atol=1e-4)


def test_everything_else_is_left_as_it_was() -> None:
    model = network()
    model[3].train()
    before = {name: value.clone() for name, value in model.state_dict().items() if "running" not in name}
    generator = torch.get_rng_state()
    recalibrate(model, (torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(1)),))
    assert torch.equal(generator, torch.get_rng_state())
    assert [part.training for part in model] == [False, False, False, True, False, False]
    assert (model[1].momentum, model[5].momentum) == (0.3, 0.1)
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items() if "tracked" not in name)


def test_no_batch_is_too_small_to_have_a_variance() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).eval()
    recalibrate(model, (torch.randn(BATCH + 1, 3),))
    assert model[1].running_var.isfinite().all()


def test_a_network_without_batch_norm_or_without_its_statistics_is_fine() -> None:
    for model in (nn.Linear(3, 4), nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False))):
        recalibrate(model, (torch.randn(8, 3),))


def test_a_run_that_asks_for_it_ends_on_statistics_of_its_own_weights(tmp_path: Path) -> None:
    digits = {"data": "digits", "epochs": 1}
    done = compress(Request("zoo:resnet8", digits, density=0.5, rounds=1, recalibrate=True), tmp_path / "net.dwindle")
    shipped, again = restore(done), restore(done)
    recalibrate(again, make_task({**digits, "seed": 0}).inputs("train"))  # type: ignore[attr-defined]
    for name, found in shipped.state_dict().items():
        torch.testing.assert_close(found, again.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_a_task_without_inputs_is_refused_before_anything_is_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(ImageClassification, "inputs")
    monkeypatch.setattr(ImageClassification, "example_inputs", lambda self: (torch.zeros(1, 1, 8, 8),))
    with pytest.raises(UsageError, match="the task has no `inputs`"):
        compress(Request("zoo:resnet8", "digits", density=0.5, recalibrate=True), tmp_path / "net.dwindle")
    assert not (tmp_path / "net.dwindle").exists()
