from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import UsageError
from dwindle.export.fold import deployable
from dwindle.export.targets import load
from dwindle.export.w8a8_samples import check_samples, streamed, untrained
from dwindle.models.signature import flat, signature_of


@pytest.mark.slow
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


class Stream(nn.Module):
    """Adds up what it hears, and forgets a part of it."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.head = nn.Linear(4, 16), nn.Linear(16, 2)

    def forward(self, x: Tensor, heard: Tensor) -> dict[str, Tensor]:
        heard = 0.8 * heard + self.enter(x)
        return {"answer": self.head(heard.relu()), "now": heard}


def stream(x: Tensor, states: dict[str, str] | None = None) -> nn.Module:
    torch.manual_seed(0)
    network = Stream().eval()
    return flat(network, signature_of(network, (x[:1], torch.zeros(1, 16)), states=states))


def test_a_state_has_the_range_of_the_calls_before() -> None:
    x, zeros = torch.rand(32, 4), torch.zeros(32, 16)
    check_samples((x, zeros))
    network = stream(x, {"heard": "now"})
    given, heard = streamed(network, (x, zeros))
    assert torch.equal(given, x)
    assert not zeros.any()
    assert not heard[0].any()
    with torch.no_grad():
        for call in range(31):
            torch.testing.assert_close(heard[call + 1], network(x[call : call + 1], heard[call : call + 1])[1][0])
    own = torch.rand(32, 16)  # states of real calls stay
    assert torch.equal(streamed(network, (x, own))[1], own)


@pytest.mark.slow
def test_the_range_of_a_state_is_that_of_the_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x, zeros = torch.rand(64, 4), torch.zeros(64, 16)
    network = deployable(stream(x, {"heard": "now"}), (x[:1], zeros[:1]))
    target = load("onnx", "w8a8").calibrated((x, zeros))
    target.write(network, (x[:1], zeros[:1]), tmp_path / "net.onnx", pack=True)
    heard, held = zeros[:1], zeros[:1]
    for call in range(64):
        one = x[call : call + 1]
        with torch.no_grad():
            answer, heard = network(one, heard)
        found = target.run(tmp_path / "net.onnx", (one, held))
        held = torch.from_numpy(found[1]).reshape(1, 16)
        assert (torch.from_numpy(found[0]).reshape(1, 2) - answer).abs().max() < 0.1 * answer.abs().max()


def test_an_input_that_never_changes_is_named() -> None:
    x, zeros = torch.rand(32, 4), torch.zeros(32, 16)
    with pytest.raises(UsageError, match=r"heard.*`states`") as refused:
        streamed(stream(x), (x, zeros))
    assert (refused.value.code, refused.value.name) == ("constant-samples", "inputs")
