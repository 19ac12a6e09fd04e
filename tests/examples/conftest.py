"""Other libraries leave the process as it was."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _processes_start_as_before() -> Iterator[None]:
    """Put back how processes are started, which importing TorchRL sets for all that follows."""
    before = multiprocessing.get_start_method(allow_none=True)
    yield
    multiprocessing.set_start_method(before, force=True)
