"""How long torch's CPU threads spin when they wait for each other; programs say it before they import torch."""

from __future__ import annotations

import os
from collections.abc import MutableMapping

SPINS = 1000
"""Rounds that a waiting thread spins before it sleeps: some microseconds. Libgomp's own 300,000 keep a core busy for
about a millisecond, which on a machine that does something else is taken from the thread that is waited for."""
CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
"""The user's own settings; if one of these variables is set, nothing is changed."""


def bound_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make waiting threads of this process, and of those that it starts, give up their core soon.

    It holds for an OpenMP library that is loaded afterwards: torch loads its own when it is first imported.
    """
    if not any(environment.get(name) for name in CHOICES):
        environment["GOMP_SPINCOUNT"] = str(SPINS)
