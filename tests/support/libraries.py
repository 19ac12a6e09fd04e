"""What the tests of other libraries share: warnings of Minari, programs that play, episode statistics."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

MINARI_ADVICE = r"ignore:`\w+` is set to None:UserWarning"
"""What Minari says of a dataset whose author, code and so on are not given."""
MINARI_FOLDERS = "ignore:Implicitly cleaning up:ResourceWarning"
"""What Python says of the temporary folders that Minari has emptied and does not close; they go when collected."""
# Runs before a program that plays: the window's close button is pressed after so many frames.
CLOSED_AFTER = """
import itertools, pygame
calls, get = itertools.count(), pygame.event.get
pygame.event.get = lambda: [pygame.event.Event(pygame.QUIT)] if next(calls) == {frames} else get()
"""


def counted(envs: gymnasium.vector.VectorEnv[Any, Any, Any], actions: np.ndarray) -> list[dict[str, Any]]:
    """Play episodes of two steps with Gymnasium's statistics, and return each one's last info."""
    envs = gymnasium.wrappers.vector.RecordEpisodeStatistics(envs)
    envs = gymnasium.wrappers.vector.DictInfoToList(envs)
    envs.reset(seed=0)
    for _ in range(2):
        *_, truncations, infos = envs.step(actions)
    assert truncations.all()
    return list(infos)


def run(program: str, folder: Path) -> str:
    """Run a program in a folder, and return what it printed."""
    result = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    return result.stdout
