from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from dwindle.export.fold import deployable
from dwindle.export.targets import load
from dwindle.export.w8a8_samples import untrained


def test_the_file_of_a_deep_network_is_counted(tmp_path: Path) -> None:
    """In 24 layers of nothing but positive values these would leave the range of fp32."""
    torch.manual_seed(0)
    real = torch.rand(4, 64)
    network = nn.Sequential(*(part for _ in range(24) for part in (nn.Linear(64, 64), nn.ReLU()))).eval()
    target = load("onnx", "w8a8")
    counted = target.packer(network, (real[:1],))(network)
    target.calibrated((real,)).write(deployable(network, (real[:1],)), (real[:1],), tmp_path / "net.onnx", pack=True)
    assert counted == (tmp_path / "net.onnx").stat().st_size


def test_values_of_an_untrained_network_all_differ() -> None:
    made = untrained(nn.Sequential(nn.Linear(32, 32), nn.Linear(32, 32)))
    values = torch.cat([tensor.flatten() for tensor in made.state_dict().values()])
    assert len(values.unique()) == len(values)
