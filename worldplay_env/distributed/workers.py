"""Who does the work: this process alone, or Ray's actors; and how one asks for either."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import Generic, TypeVar

Held = TypeVar("Held")
"""What each worker makes once and keeps: a world, an env."""
Key = TypeVar("Key", bound=Hashable)
Result = TypeVar("Result")

_log = logging.getLogger(__name__)


class WorkerLost(RuntimeError):  # noqa: N818 (what happened, in the words of the message)
    """A piece of work lost every worker that was given it, or workers are lost as soon as they begin."""


class Workers(ABC, Generic[Held]):
    """Whoever does pieces of work; made by `open_workers`."""

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
        make: Makes what is held, when it is first needed.
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
        """Return what is held, made by the first call."""
        if not self._held:
            self._held.append(self._make())
        return self._held[0]

    def close(self) -> None:
        """Let go of what is held, and close it if it has a `close`; the next work makes it anew."""
        while self._held:
            getattr(self._held.pop(), "close", lambda: None)()


@contextmanager
def open_workers(
    make: Callable[[], Held],
    count: int | None = None,
    *,
    device: str | None = None,
    threads: int | None = None,
    address: str | None = None,
) -> Iterator[Workers[Held]]:
    """Open workers for a `with` block; where Ray is missing, one process takes their place, and a line says so.

    Args:
        make: Makes what each of them holds, such as `functools.partial(worldplay_env.load, "tiny")`.
        count: How many of Ray's actors; None for this process, without Ray.
        device: What `make` computes on: "cpu", "cuda", or None for "cuda" where there is one. Actors on "cuda" get a
            GPU each, or share them evenly where there are fewer.
        threads: CPU threads that each computes with: 1 by default, but as many as torch likes where `count` is None.
            On a CPU, results are equal to the last bit only where it is equal.
        address: A running Ray cluster, such as "auto" or "HOST:6379"; by default Ray is started on this machine, and
            shut down at the end. Where the program has called `ray.init` itself, its Ray is used and stays.

    Raises:
        ValueError: A count or number of threads below 1, a device that actors cannot have.
        ConnectionError: No cluster at that address.
    """
    for name, value in (("workers", count), ("threads", threads)):
        if value is not None and value < 1:
            raise ValueError(f"the number of {name} must be 1 or more, got {value}")
    if count is None and address is not None:
        raise ValueError(f"there are no workers to place in the cluster at {address!r}: say how many")
    if count is not None:
        threads = threads or 1
        if _has_ray(count):
            from worldplay_env.distributed.actors import Actors

            with closing(Actors(make, count, device=device, threads=threads, address=address)) as actors:
                yield actors
            return
    with closing(OneProcess(make, threads)) as process:
        yield process


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


def _has_ray(count: int) -> bool:
    """Return whether Ray can be imported; if not, say what comes of it."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        wanted = f"{count} workers" if count > 1 else "a worker"
        advice = "pip install 'worldplay-env[ray]'"
        _log.warning("no Ray for %s (%s; %s): one process does all the work", wanted, error, advice)
        return False
    return True
