"""A device is profiled by its own runtime: real files of layers and networks, timed on this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from dwindle.bench.prices import making, profile, timing
from dwindle.bench.prices.designed import layers
from dwindle.bench.prices.profile import Profile
from dwindle.bench.prices.profiled import Profiled
from dwindle.errors import RuntimeUnavailable, UsageError


@pytest.mark.slow
def test_this_machine_is_profiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = sorted(layers(), key=lambda shape: shape.macs)[50:60]
    monkeypatch.setattr(making, "layers", lambda: few)
    monkeypatch.setattr(making, "NETWORKS", (("zoo:resnet8", 32),))
    monkeypatch.setattr(profile, "_FEWEST", 5)
    monkeypatch.setattr(timing, "MOST_DRIFT", 100.0)  # other tests run beside this one
    made = making.profile_device("host", "onnx", ["fp32"])
    made.save(tmp_path / "host.json")
    assert Profile.load(tmp_path / "host.json") == made
    (timed,) = made.timed
    assert {one.shape for one in timed.singles} <= set(few)  # without those that take little more than any file
    (network,) = timed.wholes
    assert network.shapes.total() == 10
    assert 0 < network.ms < 1000
    price = Profiled("onnx", "fp32", str(tmp_path / "host.json"))
    assert all(ms > 0 for ms in price.layers(few, lambda line: None))


def test_devices_and_targets_that_cannot_be_profiled_are_refused() -> None:
    with pytest.raises(UsageError):
        making.profile_device("hots")
    with pytest.raises(UsageError):
        making.profile_device("host", "onx")
    with pytest.raises(RuntimeUnavailable) as refused:
        making.profile_device("arm64", "onnx", ["fp32"])
    assert refused.value.name == "arm64"
