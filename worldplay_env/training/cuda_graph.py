"""Training steps recorded as CUDA graphs: small networks are thousands of kernels, each shorter than its launch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

WARM_UP = 3
"""Calls for each shape of the inputs before one is recorded: until then kernels are chosen and state is made."""

Function = Callable[..., dict[str, Tensor]]
Inputs = tuple[Any, ...]
"""Tensors, and tuples of tensors."""


@dataclass(frozen=True)
class _Recording:
    """The graph of one shape of inputs, with its static `inputs` and `outputs`."""

    graph: torch.cuda.CUDAGraph
    inputs: Inputs
    outputs: dict[str, Tensor]

    def replay(self, inputs: Inputs) -> dict[str, Tensor]:
        for mine, theirs in zip(tree_leaves(self.inputs), tree_leaves(inputs), strict=True):
            mine.copy_(theirs)
        self.graph.replay()
        return self.outputs


class Recorded:
    """A function of tensors that is recorded once for each shape of its inputs, and replayed from then on.

    It must do the same for all inputs of a shape, draw no random numbers, and never wait for the device. What it
    changes must have been there before it was recorded. Where recording fails, it is just called from then on.

    Args:
        function: Returns tensors by name. When it is replayed they are the same ones each time, with new values;
            the next call of any function that shares the pool may overwrite them.
        pool: Memory that recordings share, from `torch.cuda.graph_pool_handle()`; None records nothing.
    """

    def __init__(self, function: Function, pool: Any) -> None:
        self._function = function
        self._pool = pool
        self._calls: Counter[object] = Counter()
        self._recordings: dict[object, _Recording] = {}

    def __call__(self, *inputs: Any) -> dict[str, Tensor]:
        """Call the function, or replay it, with tensors and tuples of tensors of any shape."""
        if self._pool is None:
            return self._function(*inputs)
        key = tuple((tensor.shape, tensor.dtype) for tensor in tree_leaves(inputs))
        self._calls[key] += 1
        if self._calls[key] <= WARM_UP:
            return self._function(*inputs)
        if key not in self._recordings:
            try:
                self._recordings[key] = self._record(inputs)
            except Exception as error:  # whatever a kernel that cannot be recorded raises
                first = error.__context__ or error  # ending a recording that failed raises once more
                print(f"not recorded, runs unrecorded: {type(first).__name__}: {str(first)[:300]}", flush=True)
                self._pool = None
                self._recordings.clear()
                return self._function(*inputs)
        return self._recordings[key].replay(inputs)

    def _record(self, inputs: Inputs) -> _Recording:
        """Capture the function without executing it."""
        own: Inputs = tree_map(torch.clone, inputs)
        graph = torch.cuda.CUDAGraph()
        # Of this thread alone: the one that watches over several devices' communication may query events meanwhile.
        # The outer context brings back the stream that is in use: where recording fails, the inner one does not.
        with (
            torch.cuda.stream(torch.cuda.current_stream()),
            torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
        ):
            outputs = self._function(*own)
        return _Recording(graph, own, outputs)
