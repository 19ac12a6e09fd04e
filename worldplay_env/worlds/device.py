"""The device that a world computes on, also in a forked process."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


_process = os.getpid()
"""The process that torch's threads belong to: another number means that this one was forked from it."""


def pick_device(device: str | torch.device | None) -> torch.device:
    """Return the torch device asked for; by default "cuda" where there is one, else "cpu".

    Raises:
        ValueError: No such device, or no CUDA device on this machine.
        RuntimeError: As `check_fork` says.
    """
    import torch

    if device is None:
        check_fork("cuda")
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    check_fork(device)
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f'unknown device {device!r}: expected "cpu", "cuda" or "cuda:0"') from error
    if chosen.type == "cuda" and not (chosen.index or 0) < torch.cuda.device_count():
        raise ValueError(f"there is no device {device!r}: this machine has {torch.cuda.device_count()} CUDA devices")
    return chosen


def check_fork(device: str | torch.device) -> None:
    """Make a forked process fit to compute on a device, or raise RuntimeError.

    CUDA cannot be used after its parent used it. On a CPU, torch's threads do not survive a fork and would be waited
    for without end, so such a process gets one.
    """
    import torch

    global _process
    if _process != os.getpid():
        _process = os.getpid()
        torch.set_num_threads(1)
    if str(device).startswith("cuda") and torch.cuda._is_in_bad_fork():
        raise RuntimeError(
            "CUDA cannot be used here: this process was forked after its parent had used CUDA. Start it with the "
            'multiprocessing method "spawn" (AsyncVectorEnv(..., context="spawn")), or make the world in the child '
            'alone, or with device="cpu"'
        )
