"""A fixture for tests of the single env."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from envs import bare

from worldplay_env import WorldPlayEnv


@pytest.fixture
def env() -> Iterator[WorldPlayEnv]:
    """An env over the test picture, without wrappers."""
    env = bare()
    yield env
    env.close()
