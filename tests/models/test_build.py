from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from dwindle import checkpoint
from dwindle.checkpoint import Checkpoint
from dwindle.errors import CheckpointError, UsageError
from dwindle.models.build import ModelSpec, build, check_logits, check_rebuilds, restore, restore_dense

DIGITS = (torch.rand(1, 1, 8, 8),)


def _spec(spec: str) -> ModelSpec:
    return ModelSpec(spec, 10, (1, 8, 8))


def test_zoo_takes_the_datas_channels_and_classes() -> None:
    network = build(ModelSpec("zoo:resnet8", 5, (2, 8, 8)))
    check_logits(network, (torch.rand(1, 2, 8, 8),), 5)


@pytest.mark.parametrize("name", ["squeezenet1_1", "googlenet"])  # googlenet answers with a tuple if left to
def test_torchvision_takes_the_datas_classes(name: str) -> None:
    check_logits(build(ModelSpec(f"torchvision:{name}", 4, (3, 64, 64))), (torch.rand(1, 3, 64, 64),), 4)


def test_a_users_factory(users_module: Callable[[str], str]) -> None:
    name = users_module(
        "from torch import nn\n"
        "def network(num_classes, in_channels):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, 4, 3), nn.Flatten(), nn.LazyLinear(num_classes))\n"
        "def fixed(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    for factory in ("network", "fixed"):
        check_logits(build(_spec(f"{name}:{factory}")), DIGITS, 10)


def test_a_factory_that_makes_another_network_each_time(users_module: Callable[[str], str]) -> None:
    name = users_module(
        "import itertools\n"
        "from torch import nn\n"
        "widths, depths = itertools.count(8), itertools.count(1)\n"
        "def wider(): return nn.Sequential(nn.Flatten(), nn.Linear(64, w := next(widths)), nn.Linear(w, 9))\n"
        "def deeper(): return nn.Sequential(nn.Flatten(), *(nn.Linear(64, 64) for _ in range(next(depths))))\n"
        "def same(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    for factory, what in (("wider", r"1\.weight is \(8, 64\), then \(9, 64\)"), ("deeper", r"2\.weight is not there")):
        with pytest.raises(UsageError, match=what):
            check_rebuilds(_spec(f"{name}:{factory}"), build(_spec(f"{name}:{factory}")))
    built, before = build(_spec(f"{name}:same")), torch.get_rng_state()
    check_rebuilds(_spec(f"{name}:same"), built)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("zoo:resnet21", "unknown zoo model 'resnet21': did you mean 'resnet20'"),
        ("torchvision:resnet19", "unknown torchvision model 'resnet19': did you mean 'resnet1"),
        ("resnet20", "'resnet20' doesn't say where it comes from: write zoo:resnet20"),
        ("vgg", "write hf:NAME, timm:NAME, torchvision:NAME, zoo:NAME or package.module:factory"),
        ("no_such_module_here:f", "model 'no_such_module_here:f' can't be imported: ModuleNotFoundError"),
        ("builtins:dict", r"returned a dict: it must return a torch\.nn\.Module"),
    ],
)
def test_names_that_lead_nowhere(spec: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        build(_spec(spec))
    assert "\n" not in str(caught.value)


class _Answers(nn.Module):
    def __init__(self, answer: Callable[[torch.Tensor, bool], object]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: torch.Tensor) -> object:
        return self.answer(x, self.training)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (lambda x, training: [x], "returns a list"),
        (lambda x, training: (x,) if training else torch.zeros(len(x), 10), "returns a tuple"),
        (
            lambda x, training: torch.zeros(len(x), 11),
            r"returns shape \(2, 11\) for a batch of 2, and logits over 10 classes",
        ),
        (lambda x, training: torch.zeros(1, 10), r"shape \(1, 10\)"),
        (lambda x, training: torch.zeros(len(x), 10, dtype=torch.int64), r"returns torch\.int64"),
        (lambda x, training: x @ torch.zeros(3, 10), r"can't take a sample of shape \(1, 8, 8\) \(RuntimeError"),
    ],
)
def test_what_is_not_logits(answer: Callable[[torch.Tensor, bool], object], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        check_logits(_Answers(answer), DIGITS, 10)
    assert (caught.value.code, caught.value.option) == ("bad-model", "model")
    assert "\n" not in str(caught.value)


class _Model(nn.Linear):
    def __init__(self, *, lazy: bool = False, double: bool = False) -> None:
        super().__init__(64, 10, dtype=torch.float64 if double else None)
        if lazy:
            self.late = nn.LazyLinear(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(self.in_features == 0):
            return super().forward(x.flatten(1))


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        (_Model(), "can't be trained, as no gradient flows"),
        (_Model(double=True), r"its weights being torch\.float64: let its factory return it `\.float\(\)`"),
        (_Model(lazy=True), "has lazy layers"),
    ],
)
def test_what_could_not_be_trained(model: nn.Module, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as raised:
        check_logits(model, DIGITS, 10)
    assert (raised.value.code, raised.value.option) == ("bad-model", "model")


@pytest.mark.parametrize("part", ["", "1"])
def test_compiled_code_is_refused(part: str) -> None:
    compiled = torch.jit.script(nn.Linear(4, 4))  # type: ignore[no-untyped-call]
    made = nn.Sequential(nn.Flatten(), compiled) if part else compiled
    with pytest.raises(UsageError, match=f"{'has 1, which ' * bool(part)}is a TorchScript module") as raised:
        build(ModelSpec("object:Made", None, (4,)), made)
    assert (raised.value.code, raised.value.option) == ("bad-model", "model")


def test_a_factory_may_hand_out_one_module_and_lazy_layers(users_module: Callable[[str], str]) -> None:
    name = users_module(
        "from torch import nn\nONE = nn.Sequential(nn.Flatten(), nn.LazyLinear(10))\ndef one(): return ONE\n"
    )
    first, second = (build(_spec(f"{name}:one")) for _ in range(2))
    assert isinstance(first, nn.Sequential)
    assert isinstance(second, nn.Sequential)
    with torch.no_grad():
        first[1].weight.zero_()  # as training it would
    assert second[1].weight.any()
    assert first[1].weight.shape == (10, 64)


def test_what_cannot_be_copied(users_module: Callable[[str], str]) -> None:
    name = users_module(
        "import threading\nfrom torch import nn\n"
        "def held():\n    net = nn.Linear(4, 4)\n    net.lock = threading.Lock()\n    return net\n"
    )
    with pytest.raises(UsageError, match=r"Linear can't be copied \(TypeError") as caught:
        build(_spec(f"{name}:held"))
    assert (caught.value.code, caught.value.name) == ("bad-model", "Linear")


def test_a_task_without_classes_wants_a_users_model(users_module: Callable[[str], str]) -> None:
    name = users_module("from torch import nn\ndef network(num_classes=7): return nn.Linear(4, num_classes)\n")
    network = build(ModelSpec(f"{name}:network", None, (4,)))
    check_logits(network, (torch.rand(1, 4),), None)
    assert network.out_features == 7
    with pytest.raises(UsageError, match="is a classifier and the task has no `classes`"):
        build(ModelSpec("zoo:resnet8", None, (1, 8, 8)))


def test_a_colour_model_on_grey_digits_says_what_to_do() -> None:
    with pytest.raises(UsageError, match="takes 3 channels and the data has 1, so give a factory that takes"):
        check_logits(build(_spec("torchvision:resnet18")), DIGITS, 10)


def test_checking_changes_nothing() -> None:
    network = build(_spec("zoo:resnet8")).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    random = torch.get_rng_state()
    check_logits(nn.Sequential(network, nn.Dropout()), DIGITS, 10)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())
    assert network.training
    assert torch.equal(random, torch.get_rng_state())


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Checkpoint, nn.Module, nn.Module]:
    """A finished checkpoint, the network it was pruned to and the dense one."""
    spec = _spec("zoo:resnet8")
    pruned, dense = build(spec), build(spec)
    begun = checkpoint.start(tmp_path / "net.dwindle", {"model": asdict(spec)})
    weights = {"weights": pruned.state_dict(), "dense": dense.state_dict()}
    return checkpoint.finish(replace(begun, done=True), weights, {}), pruned, dense


def test_restores_what_was_saved(saved: tuple[Checkpoint, nn.Module, nn.Module]) -> None:
    found, pruned, dense = saved
    batch = torch.rand(3, 1, 8, 8)
    for restored, original in ((restore(found), pruned), (restore_dense(found), dense)):
        assert not restored.training
        assert torch.equal(restored(batch), original.eval()(batch))


def test_weights_of_another_network_are_refused(saved: tuple[Checkpoint, nn.Module, nn.Module]) -> None:
    origin = {"model": asdict(replace(_spec("zoo:resnet8"), classes=11))}
    with pytest.raises(CheckpointError, match=r"weights\.safetensors doesn't fit ResNet \(size mismatch") as caught:
        restore(replace(saved[0], origin=origin))
    assert "\n" not in str(caught.value)
    deeper = replace(saved[0], origin={"model": asdict(_spec("zoo:resnet20"))})
    with pytest.raises(CheckpointError, match=r"dense\.safetensors doesn't fit ResNet \(Missing key"):
        restore_dense(deeper)


@pytest.mark.parametrize("origin", [{}, {"model": None}, {"model": {"spec": "zoo:resnet8"}}])
def test_a_checkpoint_that_names_no_model(
    saved: tuple[Checkpoint, nn.Module, nn.Module], origin: dict[str, object]
) -> None:
    with pytest.raises(CheckpointError) as refused:
        restore(replace(saved[0], origin=origin))
    assert (refused.value.name or "").startswith("origin.model")
