"""Writes the code that the example apps run a network with, as `dwindle export --snippet LANGUAGE` prints it:

    python -m examples.apps

The apps are for a network that tells three flowers apart in photographs of 224 by 224 pixels. For your own network,
replace `Network.swift`, `Network.kt` or `network.js` by what export prints of it, and nothing else.
"""

from __future__ import annotations

from pathlib import Path

from dwindle.export.snippet import snippet
from dwindle.manifest import File, Manifest, Parity
from dwindle.preprocessing import NAMED, Preprocessing
from dwindle.signature import Input, Output, Signature

HERE = Path(__file__).parent
SIGNATURE = Signature(
    (Input("image", (1, 3, 224, 224), "float32"),),
    (Output("logits", (), (1, 3), "float32"),),
)
FLOWERS = Preprocessing(*NAMED["imagenet"], size=(224, 224), crop_share=0.875, classes=("daisy", "rose", "tulip"))
FILES = {
    "ios/Network.swift": ("coreml", "net.mlpackage", "swift"),
    "android/Network.kt": ("executorch", "net.pte", "kotlin"),
    "web/network.js": ("onnx", "net.onnx", "js"),
}
"""By the file that is written: the target, the name of the exported file, the language."""


def code(target: str, name: str, language: str) -> str:
    """The code for the example network's file of one target."""
    download = File(f"{name}.zst", "", 1, 1) if target == "executorch" else None
    file, parity = File(name, "", 2, 2), Parity(None, None, None, None, 0, None)
    manifest = Manifest(
        target, "fp32", "", file, file, parity, {}, download=download, signature=SIGNATURE, preprocessing=FLOWERS
    )
    return snippet(manifest, language)


def main() -> None:
    """Writes every file."""
    for name, how in FILES.items():
        (HERE / name).write_text(code(*how), encoding="utf-8")


if __name__ == "__main__":
    main()
