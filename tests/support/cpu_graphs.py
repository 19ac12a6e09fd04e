"""CUDA graphs on a CPU: what is captured is kept operation by operation, and is computed when it is replayed.

As on a GPU, capturing computes nothing for good: what it changed is as before, what it made has no values until the
first replay. Replaying runs the same operations on the same memory; no Python runs again. What cannot be captured
raises: to read a value on the host, and to draw random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

POOL = (0, 1)
"""What stands for memory that graphs share."""


class Graph:
    """Stands for `torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self.operations: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor | None]]] = []

    @torch.no_grad()
    def replay(self) -> None:
        for operation, args, kwargs, made in self.operations:
            for mine, new in zip(made, tree_leaves(operation(*args, **kwargs)), strict=True):
                if mine is not None:
                    mine.copy_(new)


class Capture(TorchDispatchMode):
    """Stands for `torch.cuda.graph`."""

    under_way = False

    def __init__(self, graph: Graph, pool: object, **options: object) -> None:
        super().__init__()
        assert pool == POOL
        self._graph = graph
        self._before: list[tuple[Tensor, Tensor]] = []
        self._on_host: list[Tensor] = []
        self._random = torch.get_rng_state()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        # What Python's numbers became is on the host, on a GPU too, and stays as it is.
        on_host = operation is torch.ops.aten.lift_fresh.default or (
            bool(given) and all(map(self._is_on_host, given))
        )
        if any(isinstance(leaf, torch.Generator) for leaf in tree_leaves((args, kwargs))):
            raise RuntimeError(f"{operation} draws random numbers while it is captured")
        if torch.Tag.data_dependent_output in operation.tags and not on_host:
            raise RuntimeError(f"{operation} waits for the device while it is captured")
        for tensor in _written(operation, args, kwargs):
            self._before.append((tensor, tensor.clone()))
        result = operation(*args, **kwargs)
        tensors = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if on_host:
            self._on_host += tensors
        elif operation.namespace != "profiler":
            known = {_memory(tensor) for tensor in given}
            made = [
                leaf if isinstance(leaf, Tensor) and _memory(leaf) not in known else None
                for leaf in tree_leaves(result)
            ]
            self._graph.operations.append((operation, args, kwargs, made))
        return result

    def __enter__(self) -> Any:
        Capture.under_way = True
        return super().__enter__()

    @torch.no_grad()
    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        Capture.under_way = False
        for tensor, before in reversed(self._before):
            tensor.copy_(before)
        for *_, made in self._graph.operations:
            for tensor in made:
                if tensor is not None and tensor.is_floating_point():
                    tensor.fill_(torch.nan)
        if error[0] is None and not torch.equal(self._random, torch.get_rng_state()):
            raise RuntimeError("random numbers were drawn while capturing")

    def _is_on_host(self, tensor: Tensor) -> bool:
        return any(_memory(tensor) == _memory(constant) for constant in self._on_host)


def on_cpu(monkeypatch: pytest.MonkeyPatch) -> list[Graph]:
    """Let CUDA graphs be captured on the CPU; return the list that those which are made will be in."""
    graphs: list[Graph] = []

    class Listed(Graph):
        def __init__(self) -> None:
            super().__init__()
            graphs.append(self)

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Listed)
    monkeypatch.setattr(torch.cuda, "graph", Capture)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: Capture.under_way)
    return graphs


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _written(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """Yield the tensors that an operation writes to."""
    for index, argument in enumerate(operation._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            given = args[index] if index < len(args) else kwargs.get(argument.name)
            yield from (leaf for leaf in tree_leaves(given) if isinstance(leaf, Tensor))
