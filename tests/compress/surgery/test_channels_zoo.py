"""torchvision's architectures, small ones here and the 23 of the study in the slow part."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.maxvit import MaxVit
from torchvision.models.shufflenetv2 import ShuffleNetV2
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

from dwindle.compress.macs import macs
from dwindle.compress.surgery.choice import choose, cut, find_groups, prove, score
from dwindle.models.structure import describe, rebuild, tensors

SMALL = {
    "vit": lambda: VisionTransformer(32, 8, num_layers=2, num_heads=4, hidden_dim=32, mlp_dim=128, num_classes=5),
    "swin": lambda: SwinTransformer([4, 4], 24, [2, 2], [3, 6], [4, 4], num_classes=5),
    "maxvit": lambda: MaxVit((32, 32), 8, 2, [16], [1], 8, stochastic_depth_prob=0.0, num_classes=5),
    "convnext": lambda: ConvNeXt([CNBlockConfig(32, 32, 6)], num_classes=5),
    "shufflenet": lambda: ShuffleNetV2([2, 3, 2], [24, 48, 96, 192, 256], num_classes=5),
}


@pytest.mark.parametrize(
    "name", [name if name in ("vit", "convnext") else pytest.param(name, marks=pytest.mark.slow) for name in SMALL]
)
def test_a_third_of_the_macs_can_go_and_a_third_of_those_that_are_left(name: str) -> None:
    torch.manual_seed(0)
    fresh = SMALL[name]().eval()
    model, example = copy.deepcopy(fresh), (torch.randn(1, 3, 32, 32),)
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    heads = {n: m.num_heads for n, m in model.named_modules() if isinstance(getattr(m, "num_heads", None), int)}
    for _ in range(2):
        found = find_groups(model, example)
        keep = choose(found, score(found, model), macs=0.67 * found.macs(), align=1)
        prove(model, keep, example)
        model = cut(model, keep)
        assert 0.6 * found.macs() < sum(macs(model, example).values()) <= 0.67 * found.macs()
    assert sum(getattr(model.get_submodule(n), "num_heads", 0) for n in heads) <= sum(heads.values()) - bool(heads)
    rebuilt = rebuild(json.loads(json.dumps(describe(model, fresh))), fresh, tensors(model))
    assert torch.equal(rebuilt(*example), model(*example))
    rebuilt.train()(torch.randn(2, 3, 32, 32)).sum().backward()


@pytest.mark.slow
def test_the_23_networks_of_the_study_are_cut_to_half_and_exact(tmp_path: Path) -> None:
    results = tmp_path / "results.jsonl"
    command = [sys.executable, "-m", "studies.channels.run", "--columns", "ours", "--results", str(results)]
    subprocess.run(command, cwd=Path(__file__).parents[3], check=True, capture_output=True)
    rows = [json.loads(line) for line in results.read_text().splitlines()]
    assert len(rows) == 23
    for row in rows:
        assert "failure" not in row, row
        assert 0.49 < row["macs_left"] <= 0.5, row
        assert row["error"] <= 1e-10, row
