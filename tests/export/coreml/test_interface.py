from __future__ import annotations

from pathlib import Path

import coremltools
import pytest
import torch
from torch import Tensor, nn

from dwindle.errors import ParityFailed, UsageError
from dwindle.export.answers import outputs_of
from dwindle.export.coreml.interface import Interface, Normalization, answering_probabilities, are_probabilities
from dwindle.export.coreml.read import MODEL, read
from dwindle.export.coreml.target import CoreML
from dwindle.export.fold import deployable
from dwindle.export.onnx.target import Onnx
from dwindle.export.parity import check
from dwindle.export.shipping import with_interface
from dwindle.models.checked_task import CheckedTask
from dwindle.models.signature import flat, signature_of
from dwindle.preprocessing import Preprocessing
from tests.tasks import PlainTask

MEANS, STDS = (120.0, 110.0, 100.0), (60.0, 50.0, 70.0)
LABELS = ("cat", "dog", "eel", "fox")


def network(channels: int) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Conv2d(channels, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 48, 4))
    return layers.eval().requires_grad_(False)


def images(channels: int) -> Tensor:
    return torch.randint(0, 256, (6, channels, 6, 8), generator=torch.Generator().manual_seed(1)).float()


def normalised(pixels: Tensor) -> Tensor:
    mean, std = (torch.tensor(moment[: pixels.shape[1]])[:, None, None] for moment in (MEANS, STDS))
    return (pixels - mean) / std


@pytest.mark.parametrize("channels", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_an_image_goes_in_and_scores_by_class_come_out(channels: int, tmp_path: Path) -> None:
    net, inputs = network(channels), (normalised(images(channels)),)
    target = CoreML().with_interface(Interface(Normalization(MEANS[:channels], STDS[:channels]), LABELS))
    example = (inputs[0][:1],)
    target.write(net, example, tmp_path / "net.mlpackage", pack=True)
    parity = check(target, tmp_path / "net.mlpackage", net, net, inputs)
    assert parity.weights_equal == 4
    assert parity.top1_agreement == 1
    model, _ = read(tmp_path / "net.mlpackage")
    (taken,), answers = model.description.input, {value.name: value.type for value in model.description.output}
    image = taken.type.imageType
    assert (image.height, image.width) == (6, 8)
    assert image.ColorSpace.Name(image.colorSpace) == {1: "GRAYSCALE", 3: "RGB"}[channels]
    assert answers[model.description.predictedFeatureName].HasField("stringType")
    assert answers[model.description.predictedProbabilitiesName].dictionaryType.HasField("stringKeyType")
    with pytest.raises(UsageError) as refused:
        target.run(tmp_path / "net.mlpackage", (inputs[0] + 0.004,))
    assert refused.value.code == "not-an-image"
    # The same program without the mean: what the comparison is there to find.
    other = CoreML().with_interface(Interface(Normalization((0.0,) * channels, STDS[:channels]), LABELS))
    other.write(net, example, tmp_path / "other.mlpackage", pack=True)
    wrong, _ = read(tmp_path / "other.mlpackage")
    wrong.description.metadata.userDefined["dwindle.mean"] = str(list(MEANS[:channels]))
    (tmp_path / "other.mlpackage" / MODEL).write_bytes(wrong.SerializeToString())
    with pytest.raises(ParityFailed) as failed:
        check(other, tmp_path / "other.mlpackage", net, net, inputs)
    assert (failed.value.code, failed.value.path) == ("outputs-differ", Path("other.mlpackage"))


@pytest.mark.slow
def test_an_image_is_described_as_coremltools_describes_one(tmp_path: Path) -> None:
    net, example = network(3), (normalised(images(3))[:1],)
    CoreML().with_interface(Interface(Normalization(MEANS, STDS))).write(
        net, example, tmp_path / "net.mlpackage", pack=True
    )
    theirs = coremltools.convert(
        torch.jit.trace(net, example),
        inputs=[coremltools.ImageType("input", (1, 3, 6, 8))],
        minimum_deployment_target=coremltools.target.iOS16,
        skip_model_load=True,
    ).get_spec()
    ours, _ = read(tmp_path / "net.mlpackage")
    assert ours.description.input[0] == theirs.description.input[0]
    first, second = (model.mlProgram.functions["main"].inputs[0].type for model in (ours, theirs))
    assert first == second


@pytest.mark.parametrize(
    ("interface", "code", "option", "name"),
    [
        (Interface(Normalization((1.0,), (1.0,))), "wrong-channels", "image_input", "normalization"),
        (Interface(classes=LABELS[:3]), "wrong-label-count", "classes", None),
        (Interface(classes=("cat", "dog", "cat", "fox")), "duplicate-label", "classes", "cat"),
    ],
)
def test_what_does_not_fit_the_network_is_refused(
    interface: Interface, code: str, option: str, name: str | None, tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as refused:
        CoreML().with_interface(interface).write(network(3), (images(3)[:1],), tmp_path / "net.mlpackage", pack=True)
    assert (refused.value.code, refused.value.option, refused.value.name) == (code, option, name)


class Task(PlainTask):
    normalization = (torch.tensor(MEANS), torch.tensor(STDS))
    class_names = LABELS


def test_labels_and_moments_come_from_the_task_or_a_file(tmp_path: Path) -> None:
    target = with_interface(CoreML(), CheckedTask(Task()), True, "")
    assert isinstance(target, CoreML)
    assert target.interface == Interface(Normalization(MEANS, STDS), LABELS)
    (tmp_path / "labels").write_text("ape\n bee \n\n")
    target = with_interface(CoreML(), CheckedTask(Task()), False, str(tmp_path / "labels"))
    assert isinstance(target, CoreML)
    assert target.interface == Interface(None, ("ape", "bee"))
    plain = CoreML()
    assert with_interface(plain, CheckedTask(Task()), False, None) is plain


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    said: list[str] = []
    assert isinstance(with_interface(Onnx(), CheckedTask(Task()), True, "", said.append), Onnx)
    assert said == [
        "its files take no images: `image_input` was left out",
        "class labels stand in its files' metadata alone",
    ]
    (tmp_path / "labels").write_text("\n")
    for task, image, classes, code, option, name in (
        (PlainTask(), True, None, "missing-member", "image_input", "normalization"),
        (PlainTask(), False, "", "missing-member", "classes", "class_names"),
        (Task(), False, str(tmp_path / "none"), "unreadable", "classes", None),
        (Task(), False, str(tmp_path / "labels"), "empty", "classes", None),
    ):
        with pytest.raises(UsageError) as refused:
            with_interface(CoreML(), CheckedTask(task), image, classes)
        assert (refused.value.code, refused.value.option, refused.value.name) == (code, option, name)
        assert refused.value.path == (Path(classes) if classes else None)


@pytest.mark.slow
def test_a_network_that_takes_bgr_gets_an_image_in_bgr(tmp_path: Path) -> None:
    class Flipped(Task):
        preprocessing = Preprocessing((0.5,) * 3, (0.5,) * 3, colours="BGR")

    target = with_interface(CoreML(), CheckedTask(Flipped()), True, None)
    assert isinstance(target, CoreML)
    assert target.interface == Interface(Normalization(MEANS, STDS, bgr=True))
    net, inputs = network(3), (normalised(images(3)),)
    target.write(net, (inputs[0][:1],), tmp_path / "net.mlpackage", pack=True)
    model, _ = read(tmp_path / "net.mlpackage")
    image = model.description.input[0].type.imageType
    assert image.ColorSpace.Name(image.colorSpace) == "BGR"
    assert check(target, tmp_path / "net.mlpackage", net, net, inputs).relative is not None


@pytest.mark.slow
@pytest.mark.parametrize("signed", [False, True])
def test_probabilities_are_made_of_logits(signed: bool, tmp_path: Path) -> None:
    """For a network that is flattened by its signature too, as every stage sees it."""
    inputs = (normalised(images(3)),)
    plain = network(3)
    net = flat(plain, signature_of(plain, (inputs[0][:1],))) if signed else plain
    expected = outputs_of(net, inputs)[0]
    assert not are_probabilities(expected)
    probable = deployable(answering_probabilities(net), (inputs[0][:1],))
    (found,) = outputs_of(probable, inputs)
    assert are_probabilities(found)
    torch.testing.assert_close(torch.from_numpy(found), torch.from_numpy(expected).softmax(1))
    assert not are_probabilities(outputs_of(net, inputs)[0]), "the network itself is as it was"
    target = CoreML().with_interface(Interface(None, LABELS))
    target.write(probable, (inputs[0][:1],), tmp_path / "net.mlpackage", pack=True)
    assert are_probabilities(target.run(tmp_path / "net.mlpackage", inputs)[0])
    assert check(target, tmp_path / "net.mlpackage", probable, probable, inputs).weights_equal == 4
    with pytest.raises(ParityFailed):
        check(target, tmp_path / "net.mlpackage", net, deployable(net, (inputs[0][:1],)), inputs)
