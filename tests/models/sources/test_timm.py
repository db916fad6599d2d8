"""pytorch-image-models itself, with random weights where it would have fetched trained ones."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from dwindle.errors import UsageError
from dwindle.models.build import ModelSpec, build, check_logits
from dwindle.models.pretrained import load_state
from dwindle.models.sources.timm import Timm

from .conftest import COMMIT, Cached

pytestmark = pytest.mark.needs("timm")

NAME = "test_efficientnet"


def test_it_takes_the_datas_classes_and_channels() -> None:
    check_logits(build(ModelSpec(f"timm:{NAME}", 4, (1, 64, 64))), (torch.rand(1, 1, 64, 64),), 4)


def test_a_function_of_timm_is_a_factory_whose_number_of_classes_is_hidden() -> None:
    network = build(ModelSpec(f"timm.models:{NAME}", 4, (3, 64, 64)))
    check_logits(network, (torch.rand(1, 3, 64, 64),), 4)


def test_its_own_preprocessing_is_known_without_its_weights() -> None:
    found = Timm().find("mobilenetv3_small_050", pretrained=False)
    assert found.revision is None
    assert found.preprocessing is not None
    assert found.preprocessing.std == (0.229, 0.224, 0.225)
    assert (found.preprocessing.size, found.preprocessing.crop_share) == ((224, 224), 0.875)
    assert (found.preprocessing.classes or ())[:1] == ("n01440764",)


def test_trained_weights_fetched_before_are_taken_without_a_network(cached: Cached) -> None:
    import timm

    state = timm.create_model(NAME).state_dict()
    save_file(state, cached(timm.get_pretrained_cfg(NAME).hf_hub_id) / "model.safetensors")
    source = Timm()
    found = source.find(NAME, pretrained=True)
    assert found.revision == COMMIT
    network = build(ModelSpec(f"timm:{NAME}", 4, (3, 64, 64)))
    fit = load_state(network, source.weights(NAME, found), NAME, option="pretrained", classes=4, new_head=True)
    assert fit.fresh == ("classifier.bias", "classifier.weight")
    assert torch.equal(network.state_dict()["conv_stem.weight"], state["conv_stem.weight"])


def test_pickled_weights_are_not_read(cached: Cached) -> None:
    import timm

    (cached(timm.get_pretrained_cfg(NAME).hf_hub_id) / "pytorch_model.bin").write_bytes(b"no")
    source = Timm()
    with pytest.raises(UsageError, match="pickled weights are not read") as refused:
        source.weights(NAME, source.find(NAME, pretrained=True))
    assert refused.value.code == "no-weights"


@pytest.mark.usefixtures("cached")
def test_weights_that_cannot_be_fetched() -> None:
    with pytest.raises(UsageError, match=r"can't be fetched .*: put ") as refused:
        Timm().find(NAME, pretrained=True)
    assert refused.value.code == "unreachable"


@pytest.mark.parametrize(
    ("name", "near"), [("mobilenetv3_smal_050", "mobilenetv3_small_050"), (f"{NAME}.r160_in2k", "r160_in1k")]
)
def test_names_that_lead_nowhere(name: str, near: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{near}'") as refused:
        build(ModelSpec(f"timm:{name}", 4, (3, 64, 64)))
    assert refused.value.code == "unknown-name"
