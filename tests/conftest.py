"""Settings that every test shares."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

# Two cores shared by several workers: a deadline would measure the machine. The examples are the same in every run.
settings.register_profile("worldplay", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("worldplay")

# Windows and sounds go nowhere.
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
# No test may depend on the network: whatever asks the hub without a stand-in for it fails at once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` where there is none."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
