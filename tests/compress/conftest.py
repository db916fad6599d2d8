"""What the tests of whole runs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dwindle.export import architecture


@pytest.fixture(scope="module")
def one_model() -> Iterator[None]:
    """For runs of one model: what bytes it will be is found once for each of its architectures, not in every run."""
    with architecture.one_model():
        yield
