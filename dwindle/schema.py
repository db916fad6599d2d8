"""The JSON Schema of a configuration file, from the options that it may hold: editors complete and check by it."""

from __future__ import annotations

import argparse
from typing import Any

from dwindle import __version__
from dwindle.config import NOT_IN_A_FILE, keys

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_TEXT = {"type": ["string", "number"]}


def schema(command: argparse.ArgumentParser) -> dict[str, Any]:
    """The schema of what `--config FILE.toml` takes for a command: each key with its help, type and nothing else.

    Draft 2020-12. A TOML file names it in its first line, for editors that know Taplo's directive:
    `#:schema ./dwindle.schema.json`.
    """
    listed = {name: action for name, action in keys(command).items() if name not in NOT_IN_A_FILE}
    return {
        "$schema": DRAFT,
        "title": f"Configuration of {command.prog}, version {__version__}",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            name: {"description": (action.help or "").replace("%%", "%"), **_type(action)}
            for name, action in sorted(listed.items())
        },
    }


def _type(action: argparse.Action) -> dict[str, Any]:
    """The values that `dwindle.config` takes for an option."""
    if isinstance(action, argparse.BooleanOptionalAction):
        return {"type": "boolean"}
    if isinstance(action, argparse._AppendAction) or action.nargs == "+":
        return {"anyOf": [_TEXT, {"type": "array", "items": {"type": "string"}}]}
    return dict(_TEXT)
