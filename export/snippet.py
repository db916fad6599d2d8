"""Code that runs an exported file in an app, with the names, shapes and normalisation of that file."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from dwindle.errors import UsageError
from dwindle.registry import unknown

if TYPE_CHECKING:
    from dwindle.manifest import Manifest
    from dwindle.preprocessing import Preprocessing

_TEMPLATES = Path(__file__).parent / "snippets"
LANGUAGES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "python": ("onnx", "executorch", "litert"),
        "swift": ("coreml",),
        "kotlin": ("onnx", "executorch", "litert"),
        "js": ("onnx",),
    }
)
"""The targets whose files a language's code can run, by language."""


def require_language(language: str, targets: Sequence[str]) -> None:
    """Raises UsageError for an unknown language, and for one that runs files of none of these targets."""
    if language not in LANGUAGES:
        message = unknown("language", language, list(LANGUAGES))
        raise UsageError(message, code="unknown-name", option="snippet", name=language)
    for target in targets:
        if target not in LANGUAGES[language]:
            served = [name for name, runs in LANGUAGES.items() if target in runs]
            instead = f"; for {target} there is {' and '.join(served)}" if served else ""
            raise UsageError(
                f"there is no {language} code for {target} files, only for {', '.join(LANGUAGES[language])}{instead}",
                code="conflict",
                option="snippet",
                name=target,
            )


def snippet(manifest: Manifest, language: str) -> str:
    """A file of source code that loads an exported file, prepares an image where the network takes one, and runs it.

        >>> print(snippet(manifest, "kotlin"))

    manifest: the file's. language: one of LANGUAGES. Raises UsageError where that language has no code for the
    target's files, and for a manifest without a signature, which an older version of dwindle wrote.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    require_language(language, (manifest.target,))
    if manifest.signature is None:
        raise UsageError(
            f"the manifest of the {manifest.target} file doesn't say what it takes and gives: export it again",
            code="no-signature",
            option="snippet",
        )
    pages = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # code, not HTML; every text from the manifest passes `quoted`
    )
    pages.filters |= {"quoted": partial(_quoted, language), "numbers": _numbers, "floats": _floats, "shape": _shape}
    page = pages.get_template(f"{manifest.target}.{language}.jinja")
    return page.render(file=manifest.file.name, download=manifest.fetched[1], **_facts(manifest))


def _facts(manifest: Manifest) -> dict[str, Any]:
    signature, how = manifest.signature, manifest.preprocessing
    assert signature is not None
    image = signature.inputs[0] if how and _is_image(how, signature.inputs[0].shape) else None
    states = [f"{one.name} is {one.state} of the last call" for one in signature.inputs if one.state]
    return {
        "stem": Path(manifest.file.name).stem,
        "states": f" Of a stream, {', '.join(states)}; zeros at first." if states else "",
        "inputs": signature.inputs,
        "outputs": signature.outputs,
        "image": image,
        "how": how,
        "classes": (how.classes or ()) if image and how else (),
    }


def _is_image(how: Preprocessing, shape: tuple[int, ...]) -> bool:
    return len(shape) == 4 and shape[1] == len(how.mean)


def _quoted(language: str, text: str) -> str:
    """A text as a string literal, which all four languages escape alike but for Kotlin's `$`."""
    literal = json.dumps(text, ensure_ascii=False)
    return literal.replace("$", r"\$") if language == "kotlin" else literal


def _numbers(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.6g}" if value else "0.0" for value in map(float, values))


def _floats(values: tuple[float, ...]) -> str:
    """Numbers as Kotlin writes single precision."""
    return ", ".join(f"{number}f" for number in _numbers(values).split(", "))


def _shape(sizes: tuple[int, ...]) -> str:
    return ", ".join(map(str, sizes))
