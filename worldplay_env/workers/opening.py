"""How one asks for workers: Ray's actors where Ray is there, else this process."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from worldplay_env.workers.base import Held, OneProcess, Workers

_log = logging.getLogger(__name__)


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
            from worldplay_env.workers.actors import Actors

            with closing(Actors(make, count, device=device, threads=threads, address=address)) as actors:
                yield actors
            return
    with closing(OneProcess(make, threads)) as process:
        yield process


def _has_ray(count: int) -> bool:
    """Return whether Ray can be imported; if not, log that one process does the work."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        wanted = f"{count} workers" if count > 1 else "a worker"
        advice = "pip install 'worldplay-env[ray]'"
        _log.warning("no Ray for %s (%s; %s): one process does all the work", wanted, error, advice)
        return False
    return True
