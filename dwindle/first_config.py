"""A first configuration file, of four answers: what to compress, on what data, for what runtime, to what budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from textwrap import wrap

from dwindle import registry
from dwindle.compress.request import Request
from dwindle.errors import UsageError
from dwindle.files import staged
from dwindle.models.spec import TaskSpec
from dwindle.options import as_flags, flags, options
from dwindle.quantities import parse_bytes


@dataclass(frozen=True)
class Question:
    """Something that a configuration file must say."""

    option: str
    """The field of Request or TaskSpec."""
    asks: str
    default: str
    check: Callable[[str], object] = str
    """Raises UsageError for an answer that can't be right."""


def _known_target(name: str) -> None:
    if name not in (known := registry.names("dwindle.targets")):
        raise registry.unknown_name("target", name, known, option="target")


QUESTIONS = (
    Question("model", "Which network? zoo:NAME, torchvision:NAME, timm:NAME, hf:REPO or package.module:function", ""),
    Question("data", "Which data? A folder with a folder of images per class, or a data set such as digits", ""),
    Question("target", "For which runtime? onnx, coreml, executorch, litert or mnn", "onnx", _known_target),
    Question("size", "How many bytes may the installed file have? 500KB, 2MB", "500KB", parse_bytes),
)
_OFTEN = ("method", "granularity", "precision", "recipe", "rounds", "epochs")
"""Options that are often set next: the file has them with their help, commented out."""
_SCHEMA = "#:schema ./dwindle.schema.json"
_COLUMNS = 100


def answers(given: Mapping[str, str | None], ask: Callable[[Question], str] | None) -> dict[str, str]:
    """The answer to each question, by its option: what is given, else what `ask` returns.

    ask: asks a person; None where nobody is there, and then the question's default is taken. Raises UsageError for a
    question without an answer, and for an answer that can't be right.
    """
    found: dict[str, str] = {}
    for question in QUESTIONS:
        answer = given.get(question.option) or (ask(question) if ask else question.default)
        if not answer:
            name = "MODEL" if question.option == "model" else f"`{question.option}`"
            raise UsageError(
                f"{question.asks}: nobody can be asked here, so give {name}",
                code="missing-option",
                option=question.option,
            )
        question.check(answer)
        found[question.option] = answer
    return found


def first_config(given: Mapping[str, str]) -> str:
    """A TOML file with the options that are given and, commented out, those that are often set next.

    Each has its help above it. A file that is written so is read by `dwindle compress --config`.
    """
    import tomlkit

    named = flags(Request, TaskSpec)
    listed = {each.name: each for kind in (Request, TaskSpec) for each in options(kind)}
    written = tomlkit.document()
    for line in (
        "dwindle compress --config THIS.toml -o NET.dwindle   trains, prunes and retrains",
        "dwindle plan --config THIS.toml                      says before how long that takes, and what it brings",
        "Any option of dwindle compress --help goes here by its long name. `dwindle schema > dwindle.schema.json`",
        "gives editors the names; then make the first line of this file",
        _SCHEMA,
    ):
        written.add(tomlkit.comment(line))
    for name in (*given, *_OFTEN):
        option = listed[name]
        key = name if option.positional else option.flag.removeprefix("--")
        written.add(tomlkit.nl())
        for line in wrap(as_flags(option.described, named), _COLUMNS):
            written.add(tomlkit.comment(line))
        if name in given:
            written.add(key, tomlkit.item(given[name]))
        else:
            written.add(tomlkit.comment(f"{key} ="))
    return tomlkit.dumps(written)


def write_config(given: Mapping[str, str], path: Path) -> None:
    """Writes `first_config` to a new file. Raises UsageError where there is one of that name."""
    if path.exists():
        raise UsageError(f"{path} exists: give another `out`, or remove it", code="conflict", option="out", path=path)
    with staged(path) as scratch:
        scratch.write_text(first_config(given), encoding="utf-8")
