"""What the table of programs that read ONNX files says of a file, and for which of them one is written."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from torch import nn

from dwindle.errors import UsageError
from dwindle.export import target_options, targets
from dwindle.export.fold import deployable
from dwindle.export.onnx.consumers import OLDEST, consumers, lower, newest_opset, require
from dwindle.export.onnx.target import Onnx


def model(kind: str, opset: int, **attributes: object) -> onnx.ModelProto:
    """One operator from x to y."""
    inputs, outputs = ([make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 2, 8, 8])] for name in ("x", "y"))
    graph = make_graph([make_node(kind, ["x"], ["y"], **attributes)], "net", inputs, outputs)
    return make_model(graph, opset_imports=[make_opsetid("", opset)])


@pytest.mark.parametrize(
    ("kind", "attributes", "lowest"),
    [
        ("Relu", {}, 18),
        ("AveragePool", {"kernel_shape": [2, 2]}, 18),
        ("AveragePool", {"kernel_shape": [2, 2], "ceil_mode": 1}, 18),
        ("AveragePool", {"kernel_shape": [2, 2], "dilations": [2, 2]}, 20),
        ("Cast", {"to": 1}, 18),
        ("ReduceMax", {}, 20),
        ("Gelu", {}, 20),
    ],
)
def test_a_file_is_in_the_lowest_set_in_which_it_means_the_same(
    kind: str, attributes: dict[str, object], lowest: int
) -> None:
    made = model(kind, 20, **attributes)
    lower(made)
    assert made.opset_import[0].version == lowest
    onnx.checker.check_model(made)


def test_what_needs_a_newer_runtime_is_named() -> None:
    with pytest.raises(UsageError) as raised:
        require(model("Gelu", 20), "onnxruntime", (1, 15))
    assert (raised.value.code, raised.value.option, raised.value.name) == ("too-old", "min_runtime", "Gelu")
    require(model("Gelu", 20), "onnxruntime", (1, 17))


def test_what_older_runtimes_load_and_get_wrong_is_not_promised() -> None:
    """Up to 1.20 at least, onnxruntime divides by what hangs over the edge too."""
    pooled = model("AveragePool", 18, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)
    with pytest.raises(UsageError) as raised:
        require(pooled, "onnxruntime", (1, 20))
    assert raised.value.name == "AveragePool with ceil_mode"
    assert {each.oldest for each in consumers(pooled)} == {"1.30", None}
    assert {each.oldest for each in consumers(model("Relu", 18))} == {"1.15", "1.17", "4.10"}


@pytest.mark.parametrize("name", OLDEST)
def test_the_oldest_runtime_is_known(name: str) -> None:
    major, minor = OLDEST[name]
    assert newest_opset(name, (major, minor)) >= 18
    assert newest_opset(name, (2, 0)) == 20
    with pytest.raises(UsageError) as raised:
        newest_opset(name, (major, minor - 1))
    assert (raised.value.code, raised.value.name) == ("too-old", name)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("onnxruntime", "invalid-value"),
        ("onnxruntime>=1.17", "invalid-value"),
        ("onnxruntime==1.3", "too-old"),
        ("tensorrt==10.1", "unused-option"),
    ],
)
def test_a_runtime_that_no_file_can_be_for_is_refused_early(text: str, code: str) -> None:
    with pytest.raises(UsageError) as raised:
        target_options.require_used([Onnx()], None, None, text)
    assert (raised.value.code, raised.value.option) == (code, "min_runtime")


def test_the_target_that_is_missing_is_named() -> None:
    with pytest.raises(UsageError, match="add onnx") as raised:
        target_options.require_used([targets.load("executorch")], None, None, "onnxruntime==1.17")
    assert raised.value.code == "unused-option"


@pytest.mark.slow
def test_a_file_for_an_older_runtime_has_older_operators(tmp_path: Path) -> None:
    network, x = nn.Sequential(nn.Linear(8, 8), nn.GELU()).eval(), (torch.randn(1, 8),)
    shipped, found = deployable(network, x), {}
    for target in (Onnx(), Onnx().for_runtime("onnxruntime", (1, 15))):
        path = tmp_path / "net.onnx"
        target.write(shipped, x, path, pack=True)
        assert target.packer(network, x)(network) == path.stat().st_size
        assert target.original().consumers(path) == target.consumers(path)
        found[target.min_runtime] = {each.name: each for each in target.consumers(path)}
        torch.testing.assert_close(torch.from_numpy(target.run(path, x)[0]), shipped(*x))
    newest, older = found.values()
    assert (newest["onnxruntime"].oldest, older["onnxruntime"].oldest) == ("1.17", "1.15")
    assert "Gelu" in str(newest["onnxruntime"])
    assert older["onnxruntime"].why is None
    assert older["onnxruntime-web"].oldest == "1.17"


def test_functions_keep_a_packed_file_from_opencv(tmp_path: Path) -> None:
    network, x = nn.Linear(256, 64).eval(), (torch.randn(1, 256),)
    with torch.no_grad():
        network.weight *= torch.rand_like(network.weight) < 0.1
    said = {}
    for pack in (True, False):
        Onnx().write(deployable(network, x), x, tmp_path / "net.onnx", pack=pack)
        said[pack] = {each.name: each for each in consumers(onnx.load(tmp_path / "net.onnx"))}["OpenCV"]
    assert (said[True].oldest, said[False].oldest) == (None, "4.10")
    assert "packing" in (said[True].why or "")


@pytest.mark.parametrize("precision", ["int8", "int4", "palette4", "palette3", "palette2", "palette1", "mixed"])
def test_codes_of_every_width_are_unpacked_by_the_oldest_runtimes_operators(precision: str, tmp_path: Path) -> None:
    """`min_runtime` is checked before a file is written, so that what it unpacks by must be in that operator set."""
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(96, 80), nn.ReLU(), nn.Linear(80, 64)).eval(), (torch.randn(1, 96),)
    with torch.no_grad():
        network[2].weight.mul_(torch.rand(64, 80) < 0.3)
    shipped, path = deployable(network, x), tmp_path / "net.onnx"
    target = (
        Onnx(precision).for_runtime("onnxruntime", (1, 15)).mixing({"0.weight": "palette1", "2.weight": "palette3"})
    )
    target.write(shipped, x, path, pack=True)
    model = onnx.load(path)
    assert [entry.version for entry in model.opset_import if not entry.domain] == [18]
    assert {entry.version for function in model.functions for entry in function.opset_import if not entry.domain} <= {
        18
    }
    assert next(each.oldest for each in target.consumers(path) if each.name == "onnxruntime") == "1.15"
    expected = target.as_stored(shipped, activations=False)(*x)
    torch.testing.assert_close(torch.from_numpy(target.run(path, x)[0]), expected, rtol=1e-4, atol=1e-5)
