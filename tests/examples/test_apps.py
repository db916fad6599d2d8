"""The example apps: their network's code is what export prints, and the page runs in a real browser."""

import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from dwindle.export.targets import load
from dwindle.models.signature import flat, signature_of
from examples.apps import FILES, FLOWERS, HERE, code
from tests.export.test_snippet import parses


@pytest.mark.parametrize("name", FILES)
def test_the_networks_code_is_what_export_prints(name: str) -> None:
    assert (HERE / name).read_text(encoding="utf-8") == code(*FILES[name]), "run python -m examples.apps"


@pytest.mark.parametrize(
    ("name", "language"), [("ios/ContentView.swift", "swift"), ("android/MainActivity.kt", "kotlin")]
)
def test_the_screens_parse(name: str, language: str) -> None:
    assert parses(language, (HERE / name).read_text(encoding="utf-8"))


class Colour(nn.Module):
    """Answers with the mean of each normalised channel: a red photograph is of class 0."""

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        return {"logits": image.mean((2, 3))}


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  http.server's name
        pass


@pytest.mark.slow
@pytest.mark.needs("browser")
def test_the_page_names_the_class_of_a_photograph(tmp_path: Path) -> None:
    from playwright.sync_api import sync_playwright

    from dwindle.bench.devices import web

    shutil.copytree(HERE / "web", tmp_path / "site")
    shutil.copytree(web.root() / "onnxruntime-web" / "dist", tmp_path / "site" / "ort")
    network, example = Colour().eval(), (torch.zeros(1, 3, 224, 224),)
    flattened = flat(network, signature_of(network, example))
    load("onnx").write(flattened, example, tmp_path / "site" / "net.onnx", pack=False)
    pixels = np.zeros((300, 400, 3), np.uint8)
    pixels[:, :, 1] = 255  # green: the second class
    Image.fromarray(pixels).save(tmp_path / "green.png")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(tmp_path / "site")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        with sync_playwright() as driver:
            page = driver.chromium.launch(executable_path=web.chromium()).new_page()
            page.goto(f"http://127.0.0.1:{server.server_port}/")
            page.set_input_files("input", tmp_path / "green.png")
            page.wait_for_function("document.querySelector('output').textContent.includes(' ms')")
            said = page.text_content("output")
    finally:
        server.shutdown()
    assert FLOWERS.classes is not None
    assert said is not None
    assert said.startswith(FLOWERS.classes[1])
