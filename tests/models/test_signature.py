import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor

from dwindle.errors import UsageError
from dwindle.models.checked_task import CheckedTask
from dwindle.models.kept import KeptSamples, samples_of
from dwindle.models.signature import Answering, bound, flat, nested, regrouped, signature_of
from dwindle.signature import Input, Output, Signature
from tests.networks import Detector, Listener, Reader, Reading, sentences

FRAMES = (torch.rand(1, 5, 8), torch.rand(1, 1, 16))


def test_inputs_and_outputs_are_named_by_forward() -> None:
    found = signature_of(Detector(), (torch.rand(1, 3, 8, 8),))
    assert found.inputs == (Input("image", (1, 3, 8, 8), "float32"),)
    assert found.outputs == (
        Output("boxes", ("boxes",), (1, 3, 4), "float32"),
        Output("scores_0", ("scores", 0), (1, 5), "float32"),
        Output("label", ("label",), (1,), "int64"),
    )


def test_fields_that_are_none_are_no_outputs() -> None:
    found = signature_of(Listener(), FRAMES)
    assert [(output.name, output.path) for output in found.outputs] == [
        ("speech", ("speech",)),
        ("memory", ("memory",)),
    ]


def test_inputs_by_name_keep_their_order() -> None:
    given = {name: tensor[:1] for name, tensor in sentences().items()}
    found = signature_of(Reader(), tuple(given.values()), tuple(given))
    assert [(one.name, one.dtype) for one in found.inputs] == [("input_ids", "int64"), ("attention_mask", "int64")]
    assert [one.name for one in found.outputs] == ["output_0", "output_1_embedding"]
    assert found.keywords


def test_a_network_of_one_tensor_is_flat_as_it_is() -> None:
    network = nn.Linear(4, 2)
    assert flat(network, signature_of(network, (torch.rand(1, 4),))) is network


def test_a_flat_network_is_a_view() -> None:
    network = Listener().eval()
    view = flat(network, signature_of(network, FRAMES))
    heard = network(*FRAMES)
    speech, memory = view(*FRAMES)
    torch.testing.assert_close((speech, memory), (heard.speech, heard.memory))
    assert view.state_dict().keys() == network.state_dict().keys()
    assert [name for name, _ in view.named_modules()] == [name for name, _ in network.named_modules()]
    view.head = nn.Linear(16, 1)
    assert network.head is view.head
    assert nested(view) is network
    assert not view.train(False).training


def test_a_copy_of_a_view_is_a_view_of_a_copy() -> None:
    network = Listener()
    twin = copy.deepcopy(flat(network, signature_of(network, FRAMES)))
    assert isinstance(nested(twin), Listener)
    assert nested(twin).head is twin.head
    assert twin.head is not network.head
    assert len(twin(*FRAMES)) == 2


def test_an_input_that_comes_back_is_an_output_of_its_own() -> None:
    class Echo(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x

    x = torch.rand(1, 3)
    one, two = flat(Echo(), signature_of(Echo(), (x,)))(x)
    assert len({id(x), id(one), id(two)}) == 3


def test_a_file_answers_in_the_form_of_the_network() -> None:
    network, x = Detector().eval(), torch.rand(2, 3, 8, 8)
    signature = signature_of(network, (x[:1],))
    answer = Answering(lambda batch: flat(network, signature)(*batch), signature)(x)
    torch.testing.assert_close(answer["boxes"], network(x)["boxes"])
    assert answer.scores[1:] == ()
    assert answer[2] is answer.label


def test_what_lies_after_a_none_keeps_its_place() -> None:
    signature = Signature((Input("x", (1,), "float32"),), (Output("output_1", (1,), (1,), "float32"),))
    first, second = regrouped(signature, [torch.ones(1)])
    assert first is None
    assert second.item() == 1


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((torch.ones(1),), {}), ((), {"x": torch.ones(1)}), ((), {"x": torch.ones(1), "y": torch.ones(1), "z": 1})],
)
def test_a_file_takes_what_the_example_is(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    inputs = (Input("x", (1,), "float32"), Input("y", (1,), "float32"))
    with pytest.raises(UsageError) as refused:
        bound(Signature(inputs, (), keywords=not args), args, kwargs)
    assert refused.value.code == "bad-member"


class Returns(nn.Module):
    def __init__(self, value: Any) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: torch.Tensor, *rest: torch.Tensor) -> Any:
        return self.value(x)


@pytest.mark.parametrize(
    ("value", "name", "code"),
    [
        (lambda x: {"a": [x, 3]}, "a.1", "bad-model"),
        (lambda x: "text", "output", "bad-model"),
        (lambda x: None, None, "bad-model"),
        (lambda x: {"a": x, "b": x / 0 * 0}, "b", "not-finite"),
        (lambda x: {"a_b": x, "a": {"b": x}}, "a_b", "duplicate-name"),
    ],
)
def test_what_no_file_gives_is_refused(value: Any, name: str | None, code: str) -> None:
    with pytest.raises(UsageError) as refused:
        signature_of(Returns(value), (torch.ones(1, 2),))
    assert (refused.value.code, refused.value.name) == (code, name)


def test_inputs_of_one_name_are_refused() -> None:
    class Twice(nn.Module):
        def forward(self, input_1: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
            return input_1

    with pytest.raises(UsageError) as refused:
        signature_of(Twice(), (torch.ones(1), torch.ones(1)))
    assert (refused.value.code, refused.value.name) == ("duplicate-name", "input_1")


def test_a_state_is_an_output_that_comes_back() -> None:
    found = signature_of(Listener(), FRAMES, states={"state": "memory"})
    assert [one.state for one in found.inputs] == [None, "memory"]


@pytest.mark.parametrize("states", [{"state": "speech"}, {"state": "nothing"}, {"nothing": "memory"}])
def test_a_state_that_does_not_fit_is_refused(states: dict[str, str]) -> None:
    with pytest.raises(UsageError) as refused:
        signature_of(Listener(), FRAMES, states=states)
    assert (refused.value.code, refused.value.name) == ("bad-member", "states")


def test_a_network_with_a_layer_under_two_names_is_traced_flat() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)
            self.again = nn.ModuleList([self.layer])

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"scores": self.again[0](x)}

    network, inputs = Shared(), (torch.rand(1, 3),)
    view = flat(network, signature_of(network, inputs))
    (scores,) = torch.export.export(view, inputs).module()(*inputs)
    assert torch.equal(scores, network(*inputs)["scores"])
    assert nested(view) is network
    assert nested(copy.deepcopy(view)) is not network


def test_samples_that_are_kept_are_given_by_name() -> None:
    network, sample = Reader().eval(), sentences(1)
    signature = signature_of(network, tuple(sample.values()), tuple(sample))
    kept = samples_of(CheckedTask(Reading()), 2)
    task = CheckedTask(KeptSamples(kept, None, signature))
    assert task.keywords == tuple(sample)
    assert task.signature(network) == signature
    assert [tuple(one.shape) for one in task.inputs("train")] == [(2, 8), (2, 8)]


def test_a_network_may_call_a_part_of_it_network() -> None:
    class Whole(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = nn.Linear(2, 3)

        def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
            return self.network(a), b + 1

    whole, inputs = Whole(), (torch.ones(1, 2), torch.ones(1, 2))
    view = flat(whole, signature_of(whole, inputs))
    assert torch.equal(view(*inputs)[0], whole.network(inputs[0]))
    assert nested(view) is whole


def test_a_graph_module_that_makes_itself_another_graph_stays_flat() -> None:
    graph = create_feature_extractor(
        nn.Sequential(nn.Linear(2, 3), nn.Dropout(), nn.Linear(3, 2)), {"1": "a", "2": "b"}
    )
    inputs = (torch.ones(1, 2),)
    view = flat(graph, signature_of(graph, inputs))
    for own in (view, copy.deepcopy(view)):
        assert [len(own.train(mode)(*inputs)) for mode in (True, False, True)] == [2, 2, 2]
        assert sorted(nested(own)(*inputs)) == ["a", "b"]
