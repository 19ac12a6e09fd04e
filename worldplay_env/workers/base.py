"""The interface of workers, and the worker that is this process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Generic, TypeVar

Held = TypeVar("Held")
"""The object that each worker makes once and keeps: a world, an env."""
Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")


class WorkerLost(RuntimeError):  # noqa: N818 (what happened, in the words of the message)
    """A piece of work lost every worker that was given it, or workers are lost as soon as they begin."""


class Workers(ABC, Generic[Held]):
    """A pool that does pieces of work; made by `opening.open_workers`."""

    @abstractmethod
    def stream(self, work: Callable[[Held, Key], Result], keys: Sequence[Key]) -> Iterator[tuple[Key, Result]]:
        """Yield (key, result) of every key, each as soon as it is there: with several workers, in any order.

        Args:
            work: Takes what a worker holds and a key. Its result must depend on nothing else that changes: it may be
                begun again, by another worker, when one is lost.
            keys: Handed out in this order, so the longest work is best put first.

        Raises:
            WorkerLost: See there.
            Exception: Whatever `work`, or making what a worker holds, raised; it is not tried again.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; `open_workers` calls this at the end."""


class OneProcess(Workers[Held]):
    """Does all the work in this process, in order.

    Args:
        make: Makes the held object, at the first use.
        threads: CPU threads that torch computes with during the work; by default as many as it does already.
    """

    def __init__(self, make: Callable[[], Held], threads: int | None = None) -> None:
        self._make = make
        self._threads = threads
        self._held: list[Held] = []

    def stream(self, work: Callable[[Held, Key], Result], keys: Sequence[Key]) -> Iterator[tuple[Key, Result]]:
        """Yield (key, result) of every key; see `Workers.stream`."""
        for key in keys:
            yield key, self.do(work, key)

    def do(self, work: Callable[[Held, Key], Result], key: Key) -> Result:
        """Return the result of one piece of work."""
        with _computing(self._threads):
            return work(self.hold(), key)

    def hold(self) -> Held:
        """Return the held object; the first call makes it."""
        if not self._held:
            self._held.append(self._make())
        return self._held[0]

    def close(self) -> None:
        """Drop the held object, after calling its `close` if it has one; the next work makes a new one."""
        while self._held:
            getattr(self._held.pop(), "close", lambda: None)()


@contextmanager
def _computing(threads: int | None) -> Iterator[None]:
    """Compute with that many CPU threads for a `with` block."""
    if threads is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
