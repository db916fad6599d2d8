"""transformers itself, by what `save_pretrained` writes of tiny networks with random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from dwindle.errors import UsageError
from dwindle.models.build import ModelSpec, build, check_logits
from dwindle.models.pretrained import load_state
from dwindle.models.signature import flat, signature_of
from dwindle.models.sources.huggingface import HuggingFace

from .conftest import COMMIT, Cached

pytestmark = pytest.mark.needs("transformers")

TINY: dict[str, Any] = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 20,
}
LABELS = {0: "cat", 1: "dog", 2: "bird"}


def save_vit(folder: Path) -> dict[str, torch.Tensor]:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    network = ViTForImageClassification(ViTConfig(image_size=16, patch_size=8, id2label=LABELS, **TINY))
    network.save_pretrained(folder)
    ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(folder)
    return network.state_dict()


def test_a_folder_of_save_pretrained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = save_vit(tmp_path)
    source, name = HuggingFace(), str(tmp_path)
    found = source.find(name, pretrained=True)
    assert found.preprocessing is not None
    assert found.preprocessing.mean == pytest.approx((0.5, 0.5, 0.5))
    assert (found.preprocessing.size, found.preprocessing.resize) == ((16, 16), "stretch")
    assert found.preprocessing.classes == ("cat", "dog", "bird")
    spec = ModelSpec(f"hf:{name}", 3, (3, 16, 16), json.loads(json.dumps(found.config)))
    network = build(spec)
    check_logits(network, (torch.rand(1, 3, 16, 16),), 3)
    capsys.readouterr()
    fit = load_state(network, source.weights(name, found), name, option="pretrained", classes=3, new_head=True)
    assert not any(capsys.readouterr())  # no progress bar of transformers
    assert (fit.loaded, fit.fresh) == (len(state), ())
    assert torch.equal(network.state_dict()["classifier.weight"], state["classifier.weight"])


def test_what_the_checkpoint_records_is_enough_to_build_it_again(tmp_path: Path) -> None:
    save_vit(tmp_path / "there")
    config = dict(HuggingFace().find(str(tmp_path / "there"), pretrained=False).config)
    network = build(ModelSpec("hf:gone/away", 5, (3, 16, 16), config))
    check_logits(network, (torch.rand(1, 3, 16, 16),), 5)


def test_a_repository_fetched_before_needs_no_network(cached: Cached) -> None:
    save_vit(cached("ours/tiny"))
    found = HuggingFace().find("ours/tiny", pretrained=True)
    assert found.revision == COMMIT
    assert HuggingFace().find(f"ours/tiny@{COMMIT}", pretrained=True) == found


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize(
    ("name", "code"), [("ours/absent", "unreachable"), ("no such folder/or/repository", "unknown-name")]
)
def test_what_is_not_there(name: str, code: str) -> None:
    with pytest.raises(UsageError) as refused:
        HuggingFace().find(name, pretrained=False)
    assert refused.value.code == code


def test_a_text_classifier_takes_token_ids(tmp_path: Path) -> None:
    from transformers import BertConfig, BertForMaskedLM

    BertForMaskedLM(BertConfig(vocab_size=30, num_labels=2, **TINY)).base_model.save_pretrained(tmp_path)
    source, name = HuggingFace(), str(tmp_path)
    found = source.find(name, pretrained=True)
    assert found.preprocessing is None
    network = build(ModelSpec(f"hf:{name}", 3, (7,), dict(found.config)))
    tokens = torch.randint(30, (1, 7))
    assert network.eval()(tokens)["logits"].shape == (1, 3)
    fit = load_state(network, source.weights(name, found, 3), name, option="pretrained", classes=3, new_head=True)
    assert set(fit.fresh) == {"classifier.weight", "classifier.bias"}


def test_a_network_without_a_head_answers_with_what_it_has(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel

    bert = BertModel(BertConfig(vocab_size=30, **TINY)).eval()
    bert.save_pretrained(tmp_path)
    source, name = HuggingFace(), str(tmp_path)
    found = source.find(name, pretrained=True)
    network = build(ModelSpec(f"hf:{name}", None, (7,), dict(found.config))).eval()
    load_state(network, source.weights(name, found), name, option="pretrained", classes=None)
    inputs = torch.randint(30, (1, 7)), torch.ones(1, 7, dtype=torch.int64)
    signature = signature_of(network, inputs, ("input_ids", "attention_mask"))
    assert [one.name for one in signature.outputs] == ["last_hidden_state", "pooler_output"]
    assert torch.equal(flat(network, signature)(*inputs)[1], bert(*inputs).pooler_output)


def test_a_decoder_keeps_no_cache(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    GPT2LMHeadModel(GPT2Config(vocab_size=30, n_embd=16, n_layer=1, n_head=2, n_positions=8)).save_pretrained(tmp_path)
    found = HuggingFace().find(str(tmp_path), pretrained=False)
    network = build(ModelSpec(f"hf:{tmp_path}", None, (7,), dict(found.config))).eval()
    signature = signature_of(network, (torch.randint(30, (1, 7)),), ("input_ids",))
    assert [one.name for one in signature.outputs] == ["logits"]


def test_other_forms_of_preprocessing(tmp_path: Path) -> None:
    save_vit(tmp_path)
    file = tmp_path / "preprocessor_config.json"
    file.write_text(
        json.dumps(
            {
                "size": {"shortest_edge": 256},
                "crop_size": {"height": 224, "width": 224},
                "do_center_crop": True,
                "resample": 3,
                "rescale_factor": 1 / 127.5,
                "image_mean": [1.0, 1.0, 1.0],
                "image_std": [1.0, 1.0, 1.0],
            }
        )
    )
    found = HuggingFace().find(str(tmp_path), pretrained=False).preprocessing
    assert found is not None
    assert found.mean == found.std == pytest.approx((0.5, 0.5, 0.5))  # from 0…1 to -1…1
    assert (found.size, found.resize, found.crop_share) == ((224, 224), "shorter", 0.875)
    assert found.interpolation == "bicubic"


def _edit(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_code_of_a_repository_is_not_run(tmp_path: Path) -> None:
    save_vit(tmp_path)
    (tmp_path / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Net: pass\n")
    remote = {"AutoConfig": "modeling.Net", "AutoModelForImageClassification": "modeling.Net"}
    _edit(tmp_path, auto_map=remote, attn_implementation="somebody/kernel", _attn_implementation="somebody/kernel")
    source, name = HuggingFace(), str(tmp_path)
    found = source.find(name, pretrained=True)
    assert not {"auto_map", "attn_implementation", "_attn_implementation"} & found.config.keys()
    source.weights(name, found)
    _edit(tmp_path, model_type="ours")
    with pytest.raises(UsageError, match="brings code of its own, which is not run") as refused:
        source.find(name, pretrained=True)
    assert refused.value.code == "bad-configuration"
    assert not (tmp_path / "ran").exists()


def test_a_hostile_configuration_of_a_checkpoint_names_no_kernel() -> None:
    hostile = {"model_type": "vit", "architectures": ["ViTForImageClassification"], "image_size": 16, "patch_size": 8}
    hostile |= {**TINY, "attn_implementation": "somebody/kernel", "text_config": {"_attn_implementation": "a/b"}}
    network = build(ModelSpec("hf:some/body", 3, (3, 16, 16), hostile))
    assert network.config._attn_implementation in ("sdpa", "eager")


def test_pickled_weights_and_adapters_are_not_read(tmp_path: Path) -> None:
    save_vit(tmp_path)
    source, name = HuggingFace(), str(tmp_path)
    found = source.find(name, pretrained=True)
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(UsageError, match="in safetensors") as refused:
        source.weights(name, found)
    (tmp_path / "adapter_config.json").unlink()
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(UsageError, match="in safetensors") as refused:
        source.weights(name, found)
    assert (refused.value.code, refused.value.option) == ("no-weights", "pretrained")


@pytest.mark.parametrize(
    "changes", [{"model_type": "nothing"}, {"hidden_size": "many"}, {"architectures": ["ViTMAEForPreTraining"]}]
)
def test_configurations_that_cannot_be_used(tmp_path: Path, changes: dict[str, Any]) -> None:
    save_vit(tmp_path)
    _edit(tmp_path, **changes)
    with pytest.raises(UsageError) as refused:
        build(ModelSpec("hf:a/b", None, (3, 16, 16), dict(HuggingFace().find(str(tmp_path), pretrained=False).config)))
    assert refused.value.option == "model"


@pytest.mark.usefixtures("cached")
@pytest.mark.parametrize("config", [{}, {"model_type": ["vit"]}, {"model_type": "vit", "num_labels": "many"}])
def test_a_checkpoint_without_a_usable_configuration_fetches_nothing(config: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as refused:
        build(ModelSpec("hf:some/body", 3, (3, 16, 16), config))
    assert refused.value.code == "bad-configuration"
