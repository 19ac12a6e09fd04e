"""One training on several devices: the processes that torchrun started step as one, each on data of its own.

    torchrun --nproc-per-node 2 -m worldplay_env.training autoencoder

A step's gradient is the mean over the processes, so the parameters are the same in all of them. The first process
keeps the clock, reports and writes checkpoints.
"""

from __future__ import annotations

import os
from functools import cache

import torch
import torch.distributed as dist
from torch import Tensor

from worldplay_env.worlds.device import pick_device


class Peers:
    """The processes of a training; this one alone unless torchrun started it.

    Attributes:
        rank: Which of them this one is, from 0.
        count: How many there are.
    """

    def __init__(self) -> None:
        self.rank = int(os.environ.get("RANK", "0"))
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        if self.count > 1 and not dist.is_initialized():
            dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")

    def device(self, asked: str | None) -> torch.device:
        """Return the device of this process: the one asked for, of several GPUs each process its own.

        Raises:
            ValueError: As `pick_device` says.
        """
        device = pick_device(asked)
        if self.count > 1 and device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
            torch.cuda.set_device(device)
        return device

    def average(self, tensor: Tensor) -> None:
        """Replace a tensor by its mean over the processes, in place."""
        if self.count > 1:
            dist.all_reduce(tensor)
            tensor /= self.count

    def agree(self, value: float) -> float:
        """Return the first process's value."""
        if self.count == 1:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(shared, 0)
        return float(shared)


@cache
def peers() -> Peers:
    """Return the processes of this training, which meet at the first call."""
    return Peers()
