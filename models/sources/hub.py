"""Files of a repository on the Hugging Face Hub: those fetched before, else fetched now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from dwindle.errors import UsageError, one_line

Option = Literal["model", "data", "tokenizer"]
FILES = ("*.json", "*.safetensors")
"""What is fetched of a network: never pickles, never code."""
TOKENIZER = ("*.json",)
DATA = ("*.parquet", "*.arrow", "*.csv", "*.json", "*.jsonl", "*.jpg", "*.jpeg", "*.png", "*.webp")
CARD = "README.md"
_INSTEAD: dict[Option, str] = {
    "model": "config.json, preprocessor_config.json and model.safetensors of it into a folder and give `hf:FOLDER`",
    "data": "its parquet files, in train/, validation/ and test/, into a folder and give `hf:FOLDER`",
    "tokenizer": "tokenizer.json, tokenizer_config.json and config.json of it into a folder, and give `tokenizer` that",
}
"""What to put where, where a repository can't be fetched."""


def snapshot(repository: str, revision: str | None, given: str, option: Option = "model") -> Path:
    """The folder with the files of a repository at a revision, those that the option reads; its name is the commit.

    It is fetched once: a revision that was fetched before is not asked for again, so that it works offline.
    given: what the message names. Raises UsageError where it isn't there and can't be fetched.
    """
    patterns = {"model": FILES, "data": DATA, "tokenizer": TOKENIZER}[option]
    return _fetched(repository, revision, patterns, given, option)


def data_set(repository: str, revision: str | None, config: str | None, given: str) -> Path:
    """As `snapshot` of a data set. Where its card says which files are a configuration's, no others are fetched."""
    card = _fetched(repository, revision, (CARD,), given, "data")
    patterns = _patterns(card / CARD, config) if config else ()
    return _fetched(repository, card.name, (CARD, *(patterns or DATA)), given, "data")


def _patterns(card: Path, config: str) -> list[str]:
    from huggingface_hub import DatasetCard

    try:
        listed: Any = DatasetCard.load(card).data.to_dict().get("configs") or []
        found = [one.get("data_files") for one in listed if one.get("config_name") == config]
        parts = [part for files in found for part in (files if isinstance(files, list) else [files]) if part]
        paths = [part["path"] if isinstance(part, dict) else part for part in parts]
        named = [name for path in paths for name in (path if isinstance(path, list) else [path])]
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # `datasets` itself says what is wrong with it
        return []
    return [name for name in named if isinstance(name, str) and Path(name).suffix in {Path(one).suffix for one in DATA}]


def _fetched(repository: str, revision: str | None, patterns: Sequence[str], given: str, option: Option) -> Path:
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    wanted: dict[str, Any] = {
        "revision": revision,
        "allow_patterns": list(patterns),
        "repo_type": "dataset" if option == "data" else "model",
    }
    try:
        try:
            found = snapshot_download(repository, **wanted, local_files_only=True)
        except LocalEntryNotFoundError:
            found = snapshot_download(repository, **wanted)
    except HFValidationError as error:
        raise UsageError(
            f"the `{option}` {given!r} is neither a folder nor the name of a repository ({one_line(error)})",
            code="unknown-name",
            option=option,
            name=repository,
        ) from error
    except Exception as error:  # no network, no such repository, no access to it, a full disk
        raise UsageError(
            f"{repository} can't be fetched from the Hugging Face Hub ({one_line(error)}): put {_INSTEAD[option]}, or "
            f"bring the cache of a machine that has it, {constants.HF_HUB_CACHE}",
            code="unreachable",
            option=option,
            name=repository,
        ) from error
    return Path(found)
