"""`dwindle gate --reference`: a file's outputs against another's, each in its real runtime."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest

from dwindle.bench import gate
from dwindle.bench.outputs import Expected, answers, read_samples
from dwindle.cli import main
from dwindle.errors import UsageError

Pair = tuple[Path, Path]
IMAGES = np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    np.savez(tmp_path / "samples.npz", x=IMAGES)
    return tmp_path / "samples.npz"


def copy(path: Path, to: Path, **renamed: str) -> onnx.ModelProto:
    """The file's network, with tensors renamed."""
    model = onnx.load(path)
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in (*model.graph.input, *model.graph.output):
        value.name = renamed.get(value.name, value.name)
    onnx.save(model, to)
    return model


def test_a_file_has_its_own_outputs(onnx_files: Pair, inputs: Path) -> None:
    verdict = gate(onnx_files[0], reference=onnx_files[0], inputs=inputs)
    assert [(row.name, row.measured, row.limit) for row in verdict.rows] == [("max_difference", 0, 0.001)]
    assert verdict.exit_code == 0


@pytest.mark.slow
def test_another_network_is_a_miss_and_the_worst_output_is_named(onnx_files: Pair, inputs: Path) -> None:
    verdict = gate(onnx_files[1], reference=onnx_files[0], inputs=inputs)
    dense, net = (np.stack(answers(path, {"x": IMAGES}).samples)[:, 0, 0] for path in onnx_files)
    each = np.abs(dense - net).max(1) / np.abs(dense).max(1)
    assert verdict.exit_code == 3
    assert verdict.rows[0].measured == pytest.approx(each.max())
    assert f"the output y in sample {each.argmax() + 1} of 3" in str(verdict.rows[0].reason)
    assert gate(onnx_files[1], reference=onnx_files[0], inputs=inputs, max_difference=1).passed


@pytest.mark.parametrize(
    "fixture", ["pte_files", pytest.param("tflite_files", marks=[pytest.mark.slow, pytest.mark.needs("litert")])]
)
def test_formats_may_differ(onnx_files: Pair, inputs: Path, fixture: str, request: pytest.FixtureRequest) -> None:
    verdict = gate(request.getfixturevalue(fixture)[0], reference=onnx_files[0], inputs=inputs, max_difference="0.01%")
    assert verdict.exit_code == 0, verdict.rows
    assert 0 < float(verdict.rows[0].measured or 0) < 1e-4


def test_names_may_differ(onnx_files: Pair, inputs: Path, tmp_path: Path) -> None:
    copy(onnx_files[0], tmp_path / "other.onnx", x="image", y="scores")
    assert gate(tmp_path / "other.onnx", reference=onnx_files[0], inputs=inputs).rows[0].measured == 0


def test_samples_are_one_or_several(onnx_files: Pair) -> None:
    several = answers(onnx_files[0], {"x": IMAGES})
    wide = answers(onnx_files[0], {"anything": IMAGES[:, None]})
    one = answers(onnx_files[0], {"x": IMAGES[:1].astype(np.float64)})
    assert (len(several.samples), len(wide.samples), len(one.samples)) == (3, 3, 1)
    assert np.array_equal(np.stack(several.samples), np.stack(wide.samples))
    assert np.array_equal(one.samples[0][0], several.samples[0][0])
    assert (several.names, several.runtime) == (["y"], "onnxruntime")


@pytest.mark.parametrize(
    "arrays",
    [{"x": IMAGES[:, :, :7]}, {"x": IMAGES, "z": IMAGES}, {"x": np.float32(0)}, {"x": IMAGES[:0]}],
    ids=["shape", "inputs", "scalar", "none"],
)
def test_samples_that_do_not_fit(onnx_files: Pair, arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(UsageError) as refused:
        answers(onnx_files[0], arrays)
    assert (refused.value.code, refused.value.option) == ("other-inputs", "inputs")


@pytest.mark.slow
def test_outputs_that_cannot_be_compared_are_no_pass(onnx_files: Pair, inputs: Path, tmp_path: Path) -> None:
    model = onnx.load(onnx_files[0])
    model.graph.node.append(onnx.helper.make_node("Transpose", ["y"], ["turned"]))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("turned", 1, None))
    onnx.save(model, tmp_path / "turned.onnx")
    model.graph.node.append(onnx.helper.make_node("Log", ["y"], ["logarithm"]))
    model.graph.output[0].name = "logarithm"
    onnx.save(model, tmp_path / "nan.onnx")
    model.graph.output.append(onnx.helper.make_tensor_value_info("turned", 1, None))
    onnx.save(model, tmp_path / "two.onnx")
    for name in ("turned", "nan", "two"):
        verdict = gate(tmp_path / f"{name}.onnx", reference=onnx_files[0], inputs=inputs)
        assert (verdict.exit_code, verdict.rows[0].measured) == (5, None), name
        assert verdict.rows[0].reason


def test_a_file_that_its_runtime_refuses_is_a_sentence(onnx_files: Pair, inputs: Path, tmp_path: Path) -> None:
    model = onnx.load(onnx_files[0])
    model.graph.node[1].op_type = "NoSuchOperator"
    onnx.save(model, tmp_path / "odd.onnx")
    verdict = gate(tmp_path / "odd.onnx", reference=onnx_files[0], inputs=inputs)
    assert verdict.exit_code == 5
    assert "NoSuchOperator" in str(verdict.rows[0].reason)


def test_without_its_runtime_there_is_no_figure(
    onnx_files: Pair, inputs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "dwindle.bench.runtimes.onnxruntime.find_spec", lambda name: None if name == "onnxruntime" else find_spec(name)
    )
    verdict = gate(onnx_files[0], reference=onnx_files[0], inputs=inputs)
    assert verdict.exit_code == 5
    assert "pip install onnxruntime" in str(verdict.rows[0].reason)


def test_samples_that_cannot_be_read(tmp_path: Path) -> None:
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], dtype=object))
    np.savez(tmp_path / "text.npz", x=np.array(["a"]))
    np.savez(tmp_path / "empty.npz")
    np.save(tmp_path / "array.npy", IMAGES)
    whole = tmp_path / "cut.npz"
    np.savez(whole, x=IMAGES)
    whole.write_bytes(whole.read_bytes()[:200])
    for name in ("pickled.npz", "text.npz", "empty.npz", "array.npy", "cut.npz", "gone.npz"):
        with pytest.raises(UsageError) as refused:
            read_samples(tmp_path / name)
        assert refused.value.option == "inputs"


def test_one_without_the_other(onnx_files: Pair, inputs: Path) -> None:
    for given in ({"inputs": inputs}, {"reference": onnx_files[0]}):
        with pytest.raises(UsageError) as refused:
            gate(onnx_files[0], **given)  # type: ignore[arg-type]
        assert refused.value.code == "incomplete"
    verdict = gate(onnx_files[0], max_difference=0.1)
    assert (verdict.exit_code, verdict.rows[0].measured) == (5, None)


def test_the_reference_runs_once(onnx_files: Pair) -> None:
    expected = Expected(onnx_files[0], {"x": IMAGES})
    assert expected.answers is expected.answers


@pytest.mark.slow
def test_on_the_command_line(onnx_files: Pair, inputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["gate", str(onnx_files[1]), "--reference", str(onnx_files[0]), "--inputs", str(inputs), "--json"]
    assert main(given) == 3
    document = json.loads(capsys.readouterr().out)
    assert document["rows"][0]["name"] == "max_difference"
    assert main([*given, "--max-difference", "100%"]) == 0
