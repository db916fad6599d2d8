"""What a target can't take is said before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from dwindle.checkpoint import Checkpoint
from dwindle.cli import main
from dwindle.compress import Request, compress, compression, forecast
from dwindle.compress.prepared import prepare
from dwindle.compress.rehearsal import Rehearsal
from dwindle.compress.watcher import Watcher
from dwindle.errors import DwindleError, ParityFailed, RuntimeUnavailable, UsageError
from dwindle.manifest import Manifest
from dwindle.record import Round

really = compression._rehearsed
really_planned = forecast._rehearsed

NETWORKS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 16, 3)
        self.last = nn.Linear(16, 10)

    def forward(self, x):
        return self.last(self.between(self.first(x)).mean((2, 3)))

    def between(self, x):
        return x.relu()

class Bessel(Net):
    def between(self, x):
        return x + torch.special.bessel_j0(x.detach().float())

class Noise(Net):
    def between(self, x):
        return x + torch.rand_like(x)

def zeros():
    net = Net()
    nn.init.zeros_(net.last.weight)
    return net
"""
DIGITS = {"data": "digits", "epochs": 1}


@pytest.fixture(autouse=True)
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module `own`, which the processes that export import too."""
    (tmp_path / "own.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "own", raising=False)


@pytest.fixture
def rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "_rehearsed", really)
    monkeypatch.setattr(forecast, "_rehearsed", really_planned)


def request(model: str, **options: object) -> Request:
    return Request(model, DIGITS, density=0.5, rounds=1, target="pytorch", granularity="unstructured", **options)  # type: ignore[arg-type]


@pytest.mark.usefixtures("rehearsed")
@pytest.mark.slow
def test_a_plan_says_it_in_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["plan", "own:Bessel", "--data", "digits", "--density", "0.5", "--granularity", "unstructured"]
    command += ["--for", "pytorch", "--targets", "onnx"]
    assert main([*command, "--json"]) == UsageError.exit_code
    table = json.loads(capsys.readouterr().out)
    assert [(row["target"], row["exit_code"]) for row in table["rehearsed"]] == [("pytorch", 0), ("onnx", 2)]
    assert [row["target"] for row in table["bytes"]] == ["pytorch"]
    line = NETWORKS.splitlines().index("        return self.last(self.between(self.first(x)).mean((2, 3)))") + 1
    assert f"bessel_j0.default (own.py, line {line})" in table["rehearsed"][1]["sentence"]


@pytest.mark.slow
@pytest.mark.usefixtures("rehearsed")
def test_a_file_that_computes_something_else_fails_parity_before_training(tmp_path: Path) -> None:
    said: list[str] = []

    class Notes(Watcher):
        def note(self, sentence: str) -> None:
            said.append(sentence)

    path = tmp_path / "net.dwindle"
    with pytest.raises(ParityFailed) as failed:
        compress(request("own:Noise"), path, Notes())
    assert not list(path.glob("rounds/*")), "nothing was trained"
    assert failed.value.code == "outputs-differ"
    assert failed.value.path is None, "the file is gone with the rehearsal"
    assert any(sentence.startswith("pytorch: refused: ") for sentence in said)


def test_a_cut_network_is_what_is_written_and_the_run_is_as_before() -> None:
    ready = prepare(Request("own:Net", DIGITS, macs=0.6, granularity="channel", target="pytorch"))
    weights = {name: tensor.clone() for name, tensor in ready.network.model.state_dict().items()}
    state = torch.get_rng_state()
    rehearsal = ready.rehearse()
    manifest = rehearsal.outcomes["pytorch"]
    assert isinstance(manifest, Manifest)
    assert rehearsal.refusal("pytorch") is None
    assert manifest.breakdown is not None
    assert manifest.breakdown.values < 0.6 * 4 * sum(tensor.numel() for tensor in weights.values())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in ready.network.model.state_dict().items())
    assert not ready.network.kept


@pytest.mark.slow
def test_outputs_that_are_all_alike_are_said_to_prove_little() -> None:
    rehearsal = prepare(request("own:zeros")).rehearse()
    manifest = rehearsal.outcomes["pytorch"]
    assert isinstance(manifest, Manifest)
    assert manifest.parity.constant == ("output",)
    assert "proves little" in rehearsal.sentence("pytorch")


@pytest.mark.slow
def test_a_run_is_rehearsed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began: list[Path] = []
    monkeypatch.setattr(compression, "_rehearsed", lambda ready, watcher: began.append(tmp_path))
    path = tmp_path / "net.dwindle"

    class Stops(Watcher):
        def finished(self, record: Round, rounds: int) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compress(request("zoo:resnet8"), path, Stops())
    assert len(began) == 1
    assert compress(request("zoo:resnet8"), path).done
    assert len(began) == 1
    compress(request("zoo:resnet8", rehearsal=False), tmp_path / "other.dwindle")
    assert len(began) == 1
    assert Checkpoint.load(path).done


@pytest.mark.parametrize(
    ("error", "trained", "refuses"),
    [
        (UsageError("", code="not-convertible"), False, True),
        (ParityFailed("", code="outputs-differ"), False, True),
        (DwindleError("", code="process-died"), False, True),
        (UsageError("", code="not-finite"), False, False),
        (UsageError("", code="not-finite"), True, True),
        (ParityFailed("", code="drowned-by-rounding"), False, False),
        (RuntimeUnavailable("", code="not-installed"), True, False),
    ],
)
def test_what_training_may_mend_is_no_refusal(error: DwindleError, trained: bool, refuses: bool) -> None:
    rehearsal = Rehearsal({"onnx": error}, trained)
    refusal = rehearsal.refusal("onnx")
    assert (refusal is not None) is refuses
    if refusal is not None:
        assert (type(refusal), refusal.code) == (type(error), error.code)


def test_an_unknown_target_among_the_others_is_refused() -> None:
    with pytest.raises(UsageError) as refused:
        prepare(request("zoo:resnet8", targets=("onxx",)))
    assert (refused.value.code, refused.value.name) == ("unknown-name", "onxx")
