"""What the site's pages take from the code, the studies and the repository's documents while it is built.

A page says `<!-- insert NAME -->`, which becomes what GENERATORS[NAME] returns, or `<!-- include FILE -->`, which
becomes that Markdown file of the repository. mkdocs calls the functions whose names begin with `on_`.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import inspect
import posixpath
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import griffe
from mkdocs.structure.files import File

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

    from dwindle.export.zeros import Speed, Verdict

ROOT = Path(__file__).parent.parent
DOCUMENTS = {
    "README.md": "index.md",
    "ARCHITECTURE.md": "project/architecture.md",
    "CONTRIBUTING.md": "project/contributing.md",
    "SECURITY.md": "project/security.md",
    "CHANGELOG.md": "project/changelog.md",
}
"""The repository's documents and the pages that stand for them."""
BOOST = {"tutorials/": 4, "how-to/": 4, "explanation/": 2, "reference/python.md": 0.1, "project/": 0.5, "results/": 0.5}
"""By how much search prefers the pages whose paths begin so: who searches mostly wants to know what to do."""
_PLACEHOLDER = re.compile(r"^<!-- (insert|include) (\S+) -->$", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pictures that the studies drew."""
    for picture in sorted(ROOT.glob("studies/**/*.svg")):
        path = picture.relative_to(ROOT).as_posix()
        files.append(File(path, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fills the placeholders of a page in, and says how much search prefers it."""
    boost = next((factor for path, factor in BOOST.items() if page.file.src_uri.startswith(path)), 1)
    page.meta.setdefault("search", {"boost": boost})
    here = posixpath.dirname(page.file.src_uri)

    def fill(found: re.Match[str]) -> str:
        kind, name = found.groups()
        return GENERATORS[name]() if kind == "insert" else included(ROOT / name, here)

    return _PLACEHOLDER.sub(fill, markdown)


def included(document: Path, here: str) -> str:
    """A Markdown file of the repository for a page in the folder `here`, without its title.

    Its links to other files of the repository lead to their pages and pictures.
    """

    def relink(found: re.Match[str]) -> str:
        text, target = found.groups()
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        path = (document.parent / target).resolve().relative_to(ROOT).as_posix()
        return f"[{text}]({posixpath.relpath(DOCUMENTS.get(path, path), here or '.')})"

    text = re.sub(r"\A# .*\n+", "", document.read_text(encoding="utf-8"))
    return re.sub(r"\[([^]]*)\]\(([^)\s]+)\)", relink, text)


def commands() -> str:
    """Every command with its options, as its `--help` has them."""
    from dwindle.grammar import Grammar

    listed = Grammar().commands
    shared = {_identity(action) for action in listed["compress"]._actions}
    parts = []
    for name, parser in listed.items():
        summary, _, examples = (parser.description or "").partition("\n")
        parts += [f"## dwindle {name}", summary, f"```text\n{_usage(parser)}\n```"]
        if examples:
            parts.append(f"```sh\n{textwrap.dedent(examples)}\n```")
        if name == "plan":
            parts.append("It takes the options of [compress](#dwindle-compress) but `--out` and `--track`, and:")
        for group in parser._action_groups:
            hidden = shared if name == "plan" else set()
            entries = [
                _entry(parser, action)
                for action in group._group_actions
                if action.dest != "help" and _identity(action) not in hidden
            ]
            title = {"positional arguments": "Arguments", "options": "Options"}.get(group.title or "", group.title)
            parts += [f"**{str(title).capitalize()}**", *entries] if entries else []
    return "\n\n".join(parts)


def _identity(action: argparse.Action) -> tuple[Any, ...]:
    return action.dest, tuple(action.option_strings), action.help


def _usage(parser: argparse.ArgumentParser) -> str:
    return parser.usage or inspect.cleandoc(parser.format_usage().removeprefix("usage: "))


def _entry(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    formatter = parser._get_formatter()
    lines = [_plain(line) for line in formatter._expand_help(action).splitlines()]
    said = "\n".join([f":   {lines[0]}", *(f"\n    - {line.strip()}" for line in lines[1:])])
    return f"`{formatter._format_action_invocation(action)}`\n{said}"


def _plain(sentence: str) -> str:
    """A help sentence as Markdown: flags as code, and signs that Markdown would take for its own escaped."""
    escaped = re.sub(r"([\\*_<\[\]])", r"\\\1", sentence)
    return re.sub(r"(?<![\w`-])(--[a-z][a-z-]+)", r"`\1`", escaped)


def errors() -> str:
    """The exceptions, each with its exit code."""
    from dwindle import errors as module

    kinds = [kind for _, kind in inspect.getmembers(module, inspect.isclass) if issubclass(kind, module.DwindleError)]
    kinds.sort(key=lambda kind: (kind.exit_code, kind is not module.DwindleError, kind.__name__))
    rows = [f"| `{kind.__name__}` | {kind.exit_code} | {_first_paragraph(kind)} |" for kind in kinds]
    return "\n".join(["| exception | exit code | raised when |", "|---|---:|---|", *rows])


def _gain(verdict: Verdict) -> str:
    known = [speed.verdict for speed in verdict.speeds if speed.faster is not None]
    return "; ".join(["smaller" if verdict.smaller else "not smaller", *known])


def _first_paragraph(of: object) -> str:
    paragraph = " ".join((inspect.getdoc(of) or "").split("\n\n")[0].split())
    return re.sub(r" Exit code \d.*$", "", paragraph)


def zeros() -> str:
    """What single pruned weights bring on each target."""
    from dwindle import registry
    from dwindle.export import targets

    rows = []
    for name in registry.names(targets.GROUP):
        effect = registry.resolve(targets.GROUP, name, "target").effects.weights
        inference = "; ".join(f"{_covered(one)}{one.verdict}: {one.detail}".rstrip(": ") for one in effect.speeds)
        grounds = "; ".join(dict.fromkeys(f"{one.basis}, {one.source}".rstrip(", ") for one in effect.speeds))
        size = "smaller" if effect.smaller else "not smaller"
        rows.append(f"| `{name}` | {size} | {inference or 'unknown'} | {grounds} |")
    return "\n".join(["| target | file | inference | grounds |", "|---|---|---|---|", *rows])


def _covered(speed: Speed) -> str:
    """What pruning a claim is about, as `to a density of 30%, in blocks of 4, `."""
    said = [f"in {' and '.join(speed.precisions)} files"] if speed.precisions else []
    said += [f"to a density of {speed.most:.0%}"] if speed.most < 1 else []
    said += [f"in blocks of {speed.rows} and multiples"] if speed.rows > 1 else []
    return ", ".join(said) + ", " * bool(said)


def gains() -> str:
    """What pruning brings on each target's units, in a few words: the table of the README."""
    from dwindle import registry
    from dwindle.export import targets
    from dwindle.export.zeros import Kind

    cases: tuple[tuple[str, Kind, float, int], ...] = (
        ("10% of the weights left", "weights", 0.1, 1),
        ("25% left, in blocks of 4", "weights", 0.25, 4),
        ("channels removed", "channel", 0.5, 1),
    )
    rows = [f"| target | {' | '.join(title for title, *_ in cases)} |", "|---|---|---|---|"]
    for name in registry.names(targets.GROUP):
        kind = registry.resolve(targets.GROUP, name, "target")
        told = [kind.effects.verdict(name, kind.precisions[0], *case) for _, *case in cases]
        rows.append(f"| `{name}` | {' | '.join(map(_gain, told))} |")
    return "\n".join(rows)


def limits() -> str:
    """The limits that the gate knows."""
    from dwindle.bench.limits import DEVICE_KINDS, KINDS, PROFILE_KINDS

    rows = [f"| `{name}` | `--{name.replace('_', '-')}` | {kind.help} |" for name, kind in KINDS.items()]
    only = [("device", name, kind) for name, kind in DEVICE_KINDS.items() if name not in KINDS]
    only += [("profile", name, kind) for name, kind in PROFILE_KINDS.items()]
    rows += [f"| `{name}` | none | In a {whose}'s table: {kind.wanted.split(': ')[1]}. |" for whose, name, kind in only]
    return "\n".join(["| in a file | flag | what it limits |", "|---|---|---|", *rows])


def public_names() -> str:
    """A directive of mkdocstrings for every public name, by package."""
    parts = []
    for room in ("compress", "export", "bench", "models", None):
        package = f"dwindle.{room}" if room else "dwindle"
        module = importlib.import_module(package)
        parts += [f"## {package}", _first_paragraph(module)]
        parts += [f"::: {package}.{name}{_shown(getattr(module, name))}" for name in module.__all__ if name[0] != "_"]
    return "\n\n".join(parts)


def _shown(public: object) -> str:
    """What a directive says beside the name: fifty options in a signature tell nobody anything."""
    return "\n    options:\n      show_signature: false" if _options(public) else ""


def _options(public: object) -> dict[str, str]:
    """The help of each option that a dataclass declares, by the name of its field."""
    from dwindle import options

    if not (inspect.isclass(public) and dataclasses.is_dataclass(public)):
        return {}
    return {each.name: each.described for each in options.options(public)}


class Docstrings(griffe.Extension):
    """Makes the docstrings Markdown: examples become code, and the help of options the docstrings of their fields."""

    def on_instance(self, *, obj: griffe.Object | griffe.Alias, **_: Any) -> None:
        if obj.docstring:
            examples = r"(?:^ *(?:>>>|\.\.\.) .*\n(?:(?!$| *>>>).*\n)*)+"
            obj.docstring.value = re.sub(examples, _fenced, f"{obj.docstring.value}\n", flags=re.MULTILINE)

    def on_class(self, *, cls: griffe.Class, **_: Any) -> None:
        if not any(str(member.value).startswith("option(") for member in cls.attributes.values()):
            return
        for name, said in _options(getattr(importlib.import_module(cls.module.path), cls.name)).items():
            cls.attributes[name].docstring = griffe.Docstring(_plain(said), parent=cls.attributes[name])
            cls.attributes[name].value = None


def _fenced(found: re.Match[str]) -> str:
    return f"\n```pycon\n{textwrap.dedent(found[0])}```\n"


def schemas() -> str:
    """The schema version of each document that has one."""
    from dwindle import checkpoint
    from dwindle.bench import result

    rows = [f"| `checkpoint.json` | {checkpoint.SCHEMA} |", f"| `bench.json` | {result.SCHEMA} |"]
    return "\n".join(["| document | schema |", "|---|---:|", *rows])


def demo() -> str:
    """What `make demo` printed."""
    printed = (ROOT / "studies/demo/output.txt").read_text(encoding="utf-8")
    return f"```text\n{printed}\n```"


GENERATORS: dict[str, Callable[[], str]] = {
    function.__name__: function for function in (commands, demo, errors, gains, limits, public_names, schemas, zeros)
}
