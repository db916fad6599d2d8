"""Code for apps: Python's runs here, the others' is parsed by a grammar of the language, as no phone is to be had."""

import ast
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dwindle.errors import UsageError
from dwindle.export.one_target import export_networks
from dwindle.export.snippet import LANGUAGES, require_language, snippet
from dwindle.export.targets import load
from dwindle.manifest import File, Manifest, Parity
from dwindle.models.signature import flat, signature_of
from dwindle.preprocessing import Colours, Preprocessing, Resize
from dwindle.signature import Input, Output, Signature
from tests.networks import Listener

PAIRS = [
    pytest.param(language, target, marks=[pytest.mark.needs("litert")] if target == "litert" else [])
    for language, targets in LANGUAGES.items()
    for target in targets
]
IMAGE = Signature((Input("image", (1, 3, 12, 16), "float32"),), (Output("logits", (), (1, 2), "float32"),))
STREAM = Signature(
    (Input("tokens", (1, 5), "int64"), Input("mask", (1, 5), "bool"), Input("h", (1, 4), "float32", state="h2")),
    (Output("logits", (0,), (1, 2), "float32"), Output("h2", (1,), (1, 4), "float32")),
)


def manifest(target: str, signature: Signature | None, how: Preprocessing | None = None) -> Manifest:
    file = File(f"net{load(target).suffix}", "0" * 64, 10, 10)
    return Manifest(
        target, "fp32", "", file, file, Parity(0, 0, 0, 1, 1, 1), {}, signature=signature, preprocessing=how
    )


def preprocessing(resize: Resize = "shorter", colours: Colours = "RGB", share: float = 0.875) -> Preprocessing:
    channels = 1 if colours == "L" else 3
    return Preprocessing(
        (0.5, 0.4, 0.3)[:channels],
        (0.2, 0.25, 0.3)[:channels],
        (12, 16),
        resize,
        share,
        "bilinear",
        colours,
        ('a "cat"', "dog $x"),
    )


def parses(language: str, code: str) -> bool:
    if language == "python":
        ast.parse(code)
        return True
    from importlib import import_module

    from tree_sitter import Language, Parser

    grammar = import_module(f"tree_sitter_{ {'js': 'javascript'}.get(language, language) }")
    return not Parser(Language(grammar.language())).parse(code.encode()).root_node.has_error


@pytest.mark.parametrize(("language", "target"), PAIRS)
def test_code_of_every_kind_parses(language: str, target: str) -> None:
    kinds: list[tuple[Signature, Preprocessing | None]] = [(STREAM, None)]
    for resize, colours in itertools.product(("shorter", "stretch"), ("RGB", "BGR", "L")):
        how = preprocessing(resize, colours)
        image = Input("image", (1, len(how.mean), 12, 16), "float32")
        kinds.append((Signature((image,), IMAGE.outputs), how))
    for signature, how in kinds:
        code = snippet(manifest(target, signature, how), language)
        assert parses(language, code), code
        for name in (*(one.name for one in signature.inputs), *(one.name for one in signature.outputs)):
            assert name in code
        assert max(map(len, code.splitlines())) <= 160


def test_code_that_is_wrong_does_not_parse() -> None:
    for language in ("swift", "kotlin", "js"):
        assert not parses(language, "func (((")


@pytest.mark.slow
@pytest.mark.parametrize(
    "target",
    [
        "onnx",
        "executorch",
        pytest.param("litert", marks=pytest.mark.needs("litert")),
    ],
)
def test_pythons_code_runs_the_file(target: str, tmp_path: Path) -> None:
    whole, real = Listener().eval().requires_grad_(False), (torch.rand(5, 5, 8), torch.rand(5, 1, 16))
    example = tuple(tensor[:1] for tensor in real)
    signature = signature_of(whole, example)
    network = flat(whole, signature)
    wrote = export_networks(
        {"net": (network, network), "dense": (network, network)},
        example,
        real,
        tmp_path / "out",
        load(target),
        signature=signature,
    )
    (tmp_path / "out" / "main.py").write_text(snippet(wrote, "python"))
    ran = subprocess.run(
        [sys.executable, "main.py"], cwd=tmp_path / "out", capture_output=True, text=True, check=True, timeout=300
    )
    for output in signature.outputs:
        assert f"{output.name} {output.shape} {output.dtype}" in ran.stdout


@pytest.mark.parametrize("resize", ["shorter", "stretch"])
@pytest.mark.parametrize("colours", ["RGB", "BGR", "L"])
def test_pythons_code_prepares_an_image_as_the_task_does(resize: Resize, colours: Colours, tmp_path: Path) -> None:
    from dwindle.models.pictures import pixels as decoded

    how = preprocessing(resize, colours)
    signature = Signature((Input("image", (1, len(how.mean), 12, 16), "float32"),), IMAGE.outputs)
    code = snippet(manifest("onnx", signature, how), "python")
    only = code[code.index("import numpy") : code.index("session =")].replace("import onnxruntime\n", "")
    found: dict[str, object] = {}
    exec(only, found)  # what we wrote ourselves
    photo = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 30, 3), dtype=np.uint8)).save(photo)
    pixels = decoded(str(photo), (len(how.mean), 12, 16), how)[:: -1 if colours == "BGR" else 1]
    mean, std = (np.float32(moment)[:, None, None] for moment in (how.mean, how.std))
    given = found["prepare"](photo)  # type: ignore[operator]
    np.testing.assert_allclose(given, (pixels[None] / np.float32(255) - mean) / std, rtol=1e-4, atol=1e-4)


def test_a_language_without_code_for_the_target_is_refused() -> None:
    with pytest.raises(UsageError) as refused:
        require_language("swift", ("onnx",))
    assert (refused.value.code, refused.value.name) == ("conflict", "onnx")
    with pytest.raises(UsageError) as unknown:
        require_language("Kotlinn", ())
    assert unknown.value.code == "unknown-name"
    with pytest.raises(UsageError) as old:
        snippet(manifest("onnx", None), "python")
    assert old.value.code == "no-signature"
