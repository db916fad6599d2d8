"""What a file says of itself can be read where the file is, and its bytes are counted."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import nn

from dwindle.export import targets
from dwindle.export.facts import facts
from dwindle.export.fold import deployable
from dwindle.files import raw_bytes
from dwindle.preprocessing import Preprocessing

HOW = Preprocessing((0.485, 0.456, 0.406), (1 / 3, 0.25, 0.25), (6, 8), "stretch", 0.875, classes=("cat", "dog"))
ABOUT = {"author": "Ada", "license": "Apache-2.0", "model_version": "1.2", "description": "Cats and dogs", "none": None}
LABELS = ("Katze", "Hündin")


def from_onnx(path: Path) -> Mapping[str, str]:
    from dwindle.onnx_session import session

    found: dict[str, str] = session(str(path)).get_modelmeta().custom_metadata_map
    return found


def from_coreml(path: Path) -> Mapping[str, str]:
    from dwindle.export.coreml.read import read

    told = read(path)[0].description.metadata
    own = {"author": told.author, "license": told.license, "model_version": told.versionString}
    return {**told.userDefined, **own, "description": told.shortDescription}


def from_litert(path: Path) -> Mapping[str, str]:
    from dwindle.export.litert.file import parse

    model = parse(path.read_bytes())
    return {
        entry.name.decode(): bytes(model.buffers[entry.buffer].data).decode("utf-8", "replace")
        for entry in model.metadata
    }


READERS = {"onnx": from_onnx, "coreml": from_coreml, "litert": from_litert}


def test_facts_are_what_an_app_needs() -> None:
    told = facts(HOW, LABELS, ABOUT)
    assert told.keys() == {"preprocessing", "classes", "author", "license", "model_version", "description"}
    how = json.loads(told["preprocessing"])
    assert (how["mean"], how["std"]) == ([0.485, 0.456, 0.406], [0.3333333, 0.25, 0.25])
    assert (how["size"], how["resize"], how["crop_share"], how["colours"]) == ([6, 8], "stretch", 0.875, "RGB")
    assert json.loads(told["classes"]) == list(LABELS)
    assert facts(None) == {}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "coreml", pytest.param("litert", marks=pytest.mark.needs("litert"))])
def test_a_file_says_it_and_its_bytes_are_counted(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval(), (torch.randn(1, 3, 6, 8),)
    shipped, plain = deployable(network, x), targets.load(name)
    assert plain.holds_metadata
    told = facts(HOW, LABELS, ABOUT)
    sizes = {}
    for target in (plain, plain.described(told)):
        path = tmp_path / f"{len(target.metadata)}{target.suffix}"
        target.write(shipped, x, path, pack=True)
        sizes[len(target.metadata)] = raw_bytes(path)
        assert target.packer(network, x)(network) == raw_bytes(path)
        torch.testing.assert_close(torch.from_numpy(target.run(path, x)[0]), shipped(*x), atol=2e-3, rtol=0)
        assert target.decode(path, shipped).keys() >= {"0.weight"}
    found = READERS[name](path)
    assert {key: found[key] for key in told} == told
    assert 0 < sizes[len(told)] - sizes[0] < 2 * sum(map(len, told.values())) + 400


def test_a_target_without_a_place_for_it_is_as_it_was() -> None:
    target = targets.load("executorch")
    assert target.described(facts(HOW)) is target


def test_what_a_target_becomes_says_it_too() -> None:
    told = facts(HOW)
    assert targets.load("coreml").described(told).computing("fp32").metadata == told
    assert targets.load("onnx").described(told).for_runtime("onnxruntime", (1, 17)).metadata == told
