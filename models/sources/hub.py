"""Files of a repository on the Hugging Face Hub: those fetched before, else fetched now."""

from __future__ import annotations

from pathlib import Path

from dwindle.errors import UsageError, one_line

FILES = ("*.json", "*.safetensors")
"""What is fetched: never pickles, never code."""


def snapshot(repository: str, revision: str | None, model: str) -> Path:
    """The folder with the JSON and safetensors files of a repository, at a revision; its name is the commit.

    It is fetched once: a revision that was fetched before is not asked for again, so that it works offline.
    model: the spec that the message names. Raises UsageError where it isn't there and can't be fetched.
    """
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        try:
            found = snapshot_download(repository, revision=revision, allow_patterns=[*FILES], local_files_only=True)
        except LocalEntryNotFoundError:
            found = snapshot_download(repository, revision=revision, allow_patterns=[*FILES])
    except HFValidationError as error:
        raise UsageError(
            f"the `model` {model!r} is neither a folder nor the name of a repository ({one_line(error)})",
            code="unknown-name",
            option="model",
            name=repository,
        ) from error
    except Exception as error:  # no network, no such repository, no access to it, a full disk
        raise UsageError(
            f"{repository} can't be fetched from the Hugging Face Hub ({one_line(error)}): put config.json, "
            f"preprocessor_config.json and model.safetensors of it into a folder and give `hf:FOLDER`, or bring the "
            f"cache of a machine that has it, {constants.HF_HUB_CACHE}",
            code="unreachable",
            option="model",
            name=repository,
        ) from error
    return Path(found)
