"""The version of a user's own code, recorded when a run begins."""

from __future__ import annotations

import hashlib
import inspect
import subprocess
from pathlib import Path

from dwindle.models.factory import load_factory

SECONDS = 5
"""How many seconds git may take."""


def code_state(spec: str) -> str:
    """The version of the file of `package.module:factory`: the start of its SHA-256, and git's commit if there is one.

    Raises UsageError where there is no such factory.
    """
    module = inspect.getmodule(load_factory(spec, "code"))
    source = module and getattr(module, "__file__", None)
    if not source:
        return "built in"
    file = Path(source)
    state = hashlib.sha256(file.read_bytes()).hexdigest()[:12]
    commit = _git(file, "rev-parse", "--short", "HEAD")
    if not commit:
        return f"sha256 {state}"
    changes = _git(file, "status", "--porcelain", "--", ".")
    return f"sha256 {state}, git {commit}{' with changes' if changes else ''}"


def _git(file: Path, *words: str) -> str | None:
    """Returns git's commit for the folder of a file; None where there is no git, or no repository."""
    try:
        # A repository's own settings may name a program to run whenever its state is asked for: not here.
        done = subprocess.run(
            ["git", "-c", "core.fsmonitor=false", *words],
            cwd=file.parent,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
