from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torchvision import models

from dwindle.errors import UsageError
from dwindle.models.build import ModelSpec, build
from dwindle.models.pretrained import load_state
from dwindle.models.sources.torchvision import Torchvision

NAME = "squeezenet1_1"


@pytest.fixture
def downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """What torchvision would have downloaded, in its place: random weights."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub._hub_dir", None)
    state = dict(models.get_model(NAME).state_dict())
    file = tmp_path / "hub" / "checkpoints" / Path(models.get_model_weights(NAME).DEFAULT.url).name
    file.parent.mkdir(parents=True)
    torch.save(state, file)
    return state


def test_its_own_preprocessing_is_known_without_its_weights() -> None:
    found = Torchvision().find("mobilenet_v3_small", pretrained=False)
    assert found.revision is None
    assert found.preprocessing is not None
    assert found.preprocessing.mean == (0.485, 0.456, 0.406)
    assert found.preprocessing.size == (224, 224)
    assert found.preprocessing.crop_share == 224 / 256
    assert found.preprocessing.interpolation == "bilinear"
    assert len(found.preprocessing.classes or ()) == 1000


def test_every_classifier_says_how_it_wants_images() -> None:
    source = Torchvision()
    known = [*models.list_models(module=models), *models.list_models(module=models.segmentation)]
    assert all(source.find(name, pretrained=False).preprocessing for name in known)


@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large"])
def test_segmentation_networks_answer_with_their_classes_alone(name: str) -> None:
    source, image = Torchvision(), torch.randn(1, 3, 64, 96)
    torch.manual_seed(0)
    network = source.build(name, {}, 3, (3, 64, 96)).eval()
    torch.manual_seed(0)
    theirs = models.get_model(name, weights=None, weights_backbone=None, num_classes=3).eval()
    assert list(network.state_dict()) == list(theirs.state_dict())
    with torch.no_grad():
        assert torch.equal(network(image), theirs(image)["out"])
    assert source.find(name, pretrained=True).revision == "COCO_WITH_VOC_LABELS_V1"
    found = source.build(name, {}, 21, (3, 64, 96)).state_dict()
    fit = load_state(network, found, name, option="pretrained", classes=3, new_head=True)
    assert fit.fresh
    assert all(tensor.startswith("classifier.") for tensor in fit.fresh)


def test_trained_weights_with_a_head_of_another_size(downloaded: dict[str, torch.Tensor]) -> None:
    source = Torchvision()
    found = source.find(NAME, pretrained=True)
    assert found.revision == "IMAGENET1K_V1"
    network = build(ModelSpec(f"torchvision:{NAME}", 4, (3, 64, 64), dict(found.config)))
    fit = load_state(network, source.weights(NAME, found), NAME, option="pretrained", classes=4, new_head=True)
    assert fit.fresh == ("classifier.1.bias", "classifier.1.weight")
    loaded = network.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in downloaded.items() if name not in fit.fresh)
    assert loaded["classifier.1.weight"].shape[0] == 4


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_networks_whose_trained_weights_want_another_range(name: str) -> None:
    source = Torchvision()
    for pretrained in (True, False):
        config = source.find(name, pretrained=pretrained).config
        assert source.build(name, config, 4, (3, 64, 64)).transform_input is pretrained


def test_weights_that_cannot_be_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*arguments: object, **options: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    source = Torchvision()
    with pytest.raises(UsageError, match=r"put https://.*squeezenet1_1.*\.pth into .*checkpoints") as refused:
        source.weights(NAME, source.find(NAME, pretrained=True))
    assert refused.value.code == "unreachable"
