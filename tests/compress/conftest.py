"""What the tests of whole runs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import save_file

from dwindle.export import architecture
from dwindle.models.build import ModelSpec, build
from dwindle.models.tasks import make_task


@pytest.fixture(scope="module")
def one_model() -> Iterator[None]:
    """For runs of one model: what bytes it will be is found once for each of its architectures, not in every run."""
    with architecture.one_model():
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of weights of a ResNet-8 that knows the digits."""
    torch.manual_seed(0)
    task, model = make_task({"data": "digits", "epochs": 4, "seed": 0}), build(ModelSpec("zoo:resnet8", 10, (1, 8, 8)))
    task.fit(model, start=0.0, on_step=lambda loss: None)
    file = tmp_path_factory.mktemp("weights") / "net.safetensors"
    save_file(model.state_dict(), file)
    return str(file)
