from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from dwindle.errors import UsageError
from dwindle.models.pretrained import digest, load_pretrained, load_state

State = dict[str, Tensor]


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))
    net(torch.randn(8, 4))  # moves the running statistics
    return net


@pytest.fixture
def trained() -> State:
    return dict(network(1).state_dict())


def same(first: State, second: State) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def _averaged(state: State) -> State:
    """As torch.optim.swa_utils.AveragedModel saves it."""
    return {"n_averaged": torch.tensor(3), **{f"module.{name}": value for name, value in state.items()}}


WRITERS: dict[str, Callable[[State, Path], Any]] = {
    "safetensors": save_file,
    "state dict": torch.save,
    "old zipless format": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
    "state_dict beside progress": lambda state, path: torch.save({"epoch": 3, "state_dict": state}, path),
    "beside options": lambda state, path: torch.save({"model": state, "args": argparse.Namespace(lr=0.1)}, path),
    "an average beside what it is of": lambda state, path: torch.save(
        {"model": {k: torch.zeros_like(v) for k, v in state.items()}, "model_ema": _averaged(state)}, path
    ),
    "of Lightning": lambda state, path: torch.save(
        {"state_dict": {**{f"model.{k}": v for k, v in state.items()}, "criterion.weight": torch.ones(2)}}, path
    ),
    "model": lambda state, path: torch.save({"model": state, "optimizer": {}}, path),
    "of DistributedDataParallel": lambda state, path: save_file({f"module.{k}": v for k, v in state.items()}, path),
    "of torch.compile of it": lambda state, path: save_file(
        {f"_orig_mod.module.{k}": v for k, v in state.items()}, path
    ),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_every_way_that_weights_are_saved(tmp_path: Path, trained: State, kind: str) -> None:
    WRITERS[kind](trained, tmp_path / "weights")  # told by its content, whatever it is called
    fresh = network(2)
    assert not same(dict(fresh.state_dict()), trained)
    load_pretrained(fresh, tmp_path / "weights")
    assert same(dict(fresh.state_dict()), trained)


def test_a_layer_that_is_really_called_module(tmp_path: Path) -> None:
    nets = [nn.ModuleDict({"module": network(seed)}) for seed in (1, 2)]
    save_file(dict(nets[0].state_dict()), tmp_path / "w")
    load_pretrained(nets[1], tmp_path / "w")
    assert same(dict(nets[0].state_dict()), dict(nets[1].state_dict()))


def test_half_precision_is_cast_and_old_files_have_no_batch_counter(tmp_path: Path, trained: State) -> None:
    halves = {name: value.half() for name, value in trained.items() if not name.endswith("num_batches_tracked")}
    save_file(halves, tmp_path / "w")
    fresh = network(2)
    load_pretrained(fresh, tmp_path / "w")
    assert fresh[0].weight.dtype == torch.float32
    assert torch.equal(fresh[0].weight, halves["0.weight"].float())


def test_a_network_that_wraps_what_was_saved(tmp_path: Path, trained: State) -> None:
    save_file(trained, tmp_path / "w")
    wrapped = nn.ModuleDict({"network": network(2)})
    assert load_pretrained(wrapped, tmp_path / "w").loaded == len(trained)
    assert same(dict(wrapped["network"].state_dict()), trained)


def test_a_head_of_another_size_stays_fresh_where_asked(tmp_path: Path, trained: State) -> None:
    save_file({**trained, "2.weight": torch.zeros(7, 3), "2.bias": torch.zeros(7)}, tmp_path / "other")
    save_file({name: value for name, value in trained.items() if name[0] != "2"}, tmp_path / "none")
    for name in ("other", "none"):
        fresh = network(2)
        before = fresh[2].weight.clone()
        fit = load_pretrained(fresh, tmp_path / name, classes=2, new_head=True)
        assert (fit.loaded, fit.of, fit.fresh) == (len(trained) - 2, len(trained), ("2.bias", "2.weight"))
        assert torch.equal(fresh[2].weight, before)
        assert torch.equal(fresh[0].weight, trained["0.weight"])
    with pytest.raises(UsageError, match="set `new_head`") as refused:
        load_pretrained(network(2), tmp_path / "other", classes=2)
    assert (refused.value.code, refused.value.option, refused.value.name) == ("doesnt-fit", "weights", "2.bias")


def test_only_the_head_may_be_fresh(tmp_path: Path, trained: State) -> None:
    save_file({name: value for name, value in trained.items() if name[0] != "0"}, tmp_path / "w")
    with pytest.raises(UsageError, match=r"has no 0\.weight"):
        load_pretrained(network(2), tmp_path / "w", classes=3, new_head=True)


def test_what_does_not_belong_to_the_network_is_said(tmp_path: Path, trained: State) -> None:
    WRITERS["of Lightning"](trained, tmp_path / "w")
    fit = load_pretrained(network(2), tmp_path / "w")
    assert fit.ignored == ("criterion.weight",)
    assert "criterion.weight" in fit.sentence("w")


def test_a_buffer_that_the_network_computes_itself_is_left_out() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)
            self.register_buffer("ids", torch.arange(2), persistent=False)

    network = Positions()
    saved = {**network.state_dict(), "ids": torch.zeros(2, dtype=torch.int64)}
    fit = load_state(network, saved, "file", option="weights")
    assert (fit.loaded, fit.ignored) == (2, ("ids",))
    assert network.get_buffer("ids").tolist() == [0, 1]


def test_the_digest_of_weights_is_of_names_and_values(trained: State) -> None:
    other = {**trained, "0.bias": trained["0.bias"] + 1}
    assert digest(trained) == digest(dict(reversed(trained.items()))) != digest(other)
    assert len(digest(trained)) == 64


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (Path.touch, (self.marker,))


def test_a_pickle_that_would_run_something_is_refused_and_runs_nothing(tmp_path: Path, trained: State) -> None:
    marker = tmp_path / "it ran"
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps(Payload(marker)))
    torch.save({"state_dict": trained, "extra": Payload(marker)}, tmp_path / "torch.pt")
    torch.save(network(1), tmp_path / "whole.pt")
    for name in ("plain.pkl", "torch.pt", "whole.pt"):
        with pytest.raises(UsageError, match=rf"{name} are neither safetensors nor .* weights_only=True"):
            load_pretrained(network(2), tmp_path / name)
    assert not marker.exists()


def _write(content: object) -> Callable[[State, Path], object]:
    return lambda _, path: torch.save(content, path)


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (lambda state, path: None, "can't be read: No such file"),
        (lambda state, path: path.mkdir(), "can't be read: Is a directory"),
        (lambda state, path: path.write_bytes(b""), "neither safetensors"),
        (lambda state, path: path.write_bytes(b"\xff" * 7 + b"\x7f{"), "neither safetensors"),
        (lambda state, path: (save_file(state, path), path.write_bytes(path.read_bytes()[:-4])), "neither safetensors"),
        (_write([1, 2]), "hold no state dict"),
        (_write({}), "hold no state dict"),
        (_write({"epoch": 3}), "hold no state dict"),
        (
            lambda state, path: save_file({k: v for k, v in state.items() if k[0] == "2"}, path),
            r"doesn't fit Sequential: it has no 0\.weight \(nor 5 others\)",
        ),
        (
            lambda state, path: save_file({**state, "3.weight": torch.zeros(2)}, path),
            r"doesn't fit Sequential: the model has no 3\.weight; give the file",
        ),
        (
            lambda state, path: save_file({**state, "2.weight": torch.zeros(5, 3)}, path),
            r"2\.weight has shape \(5, 3\) there and \(2, 3\) in the model",
        ),
        (
            lambda state, path: save_file({**state, "2.bias": torch.tensor([1.0, float("nan")])}, path),
            r"2\.bias in .* is not finite",
        ),
        (
            lambda state, path: torch.save({**state, "2.bias": state["2.bias"].double() + 1e300}, path),
            r"2\.bias in .* is not finite",
        ),
        *(
            (
                lambda state, path, change=change: torch.save({**state, "2.weight": change(state["2.weight"])}, path),
                r"2\.weight is torch\.",
            )
            for change in (
                torch.Tensor.int,
                torch.Tensor.to_sparse,
                lambda weight: weight.to(torch.complex64),
                lambda weight: weight.to("meta"),
            )
        ),
    ],
)
def test_what_is_refused_leaves_the_model_alone(
    tmp_path: Path, trained: State, write: Callable[[State, Path], object], sentence: str
) -> None:
    write(trained, tmp_path / "w")
    fresh = network(2)
    before = {name: value.clone() for name, value in fresh.state_dict().items()}
    with pytest.raises(UsageError, match=sentence) as caught:
        load_pretrained(fresh, tmp_path / "w")
    assert "\n" not in str(caught.value)
    assert same(before, dict(fresh.state_dict()))
