"""Ray's actors as workers. Ray places and restarts them; here, work goes to whichever is free."""

from __future__ import annotations

import copy
import logging
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import ObjectLostError, OutOfMemoryError, RayActorError, RayTaskError, WorkerCrashedError

from worldplay_env.workers.base import Held, Key, OneProcess, Result, WorkerLost, Workers

RETRIES = 3
"""How often Ray restarts an actor whose process died before a new one takes its place, and how often work that was
lost with an actor is begun again."""
_LOST = (RayActorError, WorkerCrashedError, OutOfMemoryError, ObjectLostError)


class _Actor(OneProcess[Held]):
    """What runs in an actor. What it holds is made on demand: one that Ray restarted makes it anew."""

    def ready(self) -> None:
        """Make the held object; return when it is ready."""
        self.hold()


class Actors(Workers[Held]):
    """Actors that do one piece of work after another; see `opening.open_workers` for the arguments.

    An actor gets work when it stands ready: those that the cluster has no room for get none, and hold up nothing.
    """

    def __init__(
        self, make: Callable[[], Held], count: int, *, device: str | None, threads: int, address: str | None
    ) -> None:
        self._owns_ray = not ray.is_initialized()
        if self._owns_ray:
            place = {"address": "local", "num_cpus": count * threads} if address is None else {"address": address}
            ray.init(**place, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
        self._make = make
        self._threads = threads
        self.handles: list[Any] = []
        """The actors, by Ray's handles; one that is lost for good is replaced."""
        try:
            _check_room(threads)
            self._gpus = _gpus_each(device, count)
            self.handles += [self._begin() for _ in range(count)]
        except BaseException:
            self.close()
            raise

    def stream(self, work: Callable[[Held, Key], Result], keys: Sequence[Key]) -> Iterator[tuple[Key, Result]]:
        """Yield (key, result) of every key as they come; see `workers.Workers.stream`."""
        waiting = deque(range(len(keys)))
        left = len(keys)
        free: list[int] = []
        running: dict[Any, tuple[int, int | None]] = {}  # which actor does which piece of work; None: it gets ready
        losses: Counter[tuple[int, int | None]] = Counter()
        for place, actor in enumerate(self.handles):
            running[actor.ready.remote()] = place, None
        while left:
            [done], _ = ray.wait(list(running), num_returns=1)
            place, index = running.pop(done)
            result, lost = _fetch(done)
            task = (place, None) if index is None else (-1, index)  # work is lost by whoever does it
            if lost is None:
                del losses[task]
                free.append(place)
            else:
                losses[task] += 1
                _check_losses(losses[task], "getting ready" if index is None else f"doing {keys[index]!r}", lost)
                if index is None:
                    self._replace(place)
                else:
                    waiting.appendleft(index)
                for one in (place, *free):  # those that wait for work may be lost as well, with their machine
                    running[self.handles[one].ready.remote()] = one, None
                free.clear()
            while waiting and free:
                place, started = free.pop(), waiting.popleft()
                running[self.handles[place].do.remote(work, keys[started])] = place, started
            if lost is None and index is not None:
                left -= 1
                yield keys[index], result

    def close(self) -> None:
        """End the actors, busy or not, and the Ray that was started for them."""
        if self._owns_ray:
            ray.shutdown()
        else:
            for actor in self.handles:
                ray.kill(actor)
        self.handles.clear()

    def _begin(self) -> Any:
        """Start an actor."""
        # Ray restarts an actor, but does not retry its work: that would wait for this one actor, which may find no
        # room any more, while another is free to do it.
        settings = {"num_cpus": self._threads, "num_gpus": self._gpus, "max_restarts": RETRIES, "max_task_retries": 0}
        return ray.remote(_Actor).options(**settings).remote(self._make, self._threads)

    def _replace(self, place: int) -> None:
        """Start an actor in place of one that is gone."""
        ray.kill(self.handles[place])  # it may be out of reach alone, and would keep its room
        self.handles[place] = self._begin()


def _fetch(reference: Any) -> tuple[Any, BaseException | None]:
    """Return a result or the loss of its actor; raise the work's own errors."""
    try:
        # A copy: Ray's own arrays cannot be written, and keep its shared memory occupied as long as they live.
        return copy.deepcopy(ray.get(reference)), None
    except RayTaskError as error:
        raise error.cause from error
    except _LOST as error:
        return None, error


def _check_losses(count: int, what: str, last: BaseException) -> None:
    if count > RETRIES:
        reason = str(last).strip().splitlines()[-1]
        raise WorkerLost(f"workers were lost {count} times while {what}; the last one: {reason}") from last


def _check_room(threads: int) -> None:
    cpus = ray.cluster_resources().get("CPU", 0)
    if cpus < threads:
        raise ValueError(f"a worker of {threads} threads needs as many CPUs of Ray's, which has {cpus:g}")


def _gpus_each(device: str | None, count: int) -> float:
    """Return the share of a GPU that each of `count` actors gets, so that there is room for all of them.

    Raises:
        ValueError: One certain GPU, or any where there is none.
    """
    kind, _, number = (device or "").partition(":")
    if number:
        raise ValueError(f'device {device!r} names one GPU, but Ray gives each worker its own: say "cuda"')
    gpus = int(ray.cluster_resources().get("GPU", 0)) if kind in ("", "cuda") else 0
    if kind == "cuda" and not gpus:
        raise ValueError('device "cuda" was asked for, but Ray finds no GPU')
    return 1 / math.ceil(count / gpus) if gpus else 0
