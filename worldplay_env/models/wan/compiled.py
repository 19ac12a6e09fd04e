"""Blocks and decoders that a compiler has fused (`torch.compile`): as many graphs as there are shapes, and no more.

What a block does between its attentions sees M = batch x frames latent frames at a time, whatever the length of
memory and whichever the layer. So five lengths of memory are four numbers of frames (4, 8, 12, 16), and all layers
share their graphs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from worldplay_env.models.wan.block import EAGER, Execution

MOST_SHAPES = 8
"""Shapes that a function is compiled for unless they are named; it runs as it is for others. Beyond as many graphs of
one function, torch would silently stop to compile it."""


class Compiled:
    """A function that is compiled for a bounded number of shapes, and runs as it is for others.

    Args:
        function: A plain function without closure.
        shape: Returns what decides about the graph, hashable, of the function's arguments.
        shapes: The shapes to compile for. None: the first `MOST_SHAPES` that are met.
        backend: A backend of `torch.compile`.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        shape: Callable[..., Any],
        shapes: Collection[Any] | None = None,
        backend: str | Callable[..., Any] = "inductor",
    ) -> None:
        self._function, self._shape = function, shape
        self._open = shapes is None
        self.shapes: set[Any] = set(shapes or ())
        self._compiled = torch.compile(_copied(function), dynamic=False, fullgraph=True, backend=backend)

    def __call__(self, *arguments: Any) -> Any:
        """Call the function, compiled if its shape is among those that are."""
        shape = self._shape(*arguments)
        if self._open and len(self.shapes) < MOST_SHAPES:
            self.shapes.add(shape)
        return (self._compiled if shape in self.shapes else self._function)(*arguments)


def compiled_execution(
    execution: Execution = EAGER,
    frames: Collection[int] | None = None,
    backend: str | Callable[..., Any] = "inductor",
) -> Execution:
    """Return an execution whose parts are compiled; its attention and dtype are those of `execution`.

    Args:
        execution: Its parts must be plain functions.
        frames: The numbers of latent frames, batch x frames, to compile for. None: the first ones that are met.
        backend: A backend of `torch.compile`.
    """

    def compiled(part: Callable[..., Any]) -> Compiled:
        return Compiled(part, _frames, frames, backend)

    return dataclasses.replace(
        execution,
        before_attention=compiled(execution.before_attention),
        keys_values=compiled(execution.keys_values),
        after_attention=compiled(execution.after_attention),
        after_text=compiled(execution.after_text),
    )


def _frames(block: torch.nn.Module, x: Tensor, *_: Any) -> int:
    return len(x)


def _copied(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a copy of a function with a code object of its own, by which torch counts the graphs that it has."""
    assert isinstance(function, FunctionType)
    copy = FunctionType(function.__code__.replace(), function.__globals__, function.__name__, function.__defaults__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
