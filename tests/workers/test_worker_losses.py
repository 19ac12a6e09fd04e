"""Lost actors and errors of the work."""

from __future__ import annotations

import functools
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from spread import alone, card, frames_of

import worldplay_env
from worldplay_env.workers import WorkerLost, open_workers
from worldplay_env.worlds.base import World


def logged(world: World, seed: int, log: Path) -> np.ndarray:
    """Make a film slowly, writing down when it is begun and done, and by which actor."""
    import ray

    actor = ray.get_runtime_context().get_actor_id()
    for moment in ("begun", "done"):
        with log.open("a") as file:
            file.write(f"{moment} {seed} {actor}\n")
        if moment == "begun":
            frames = frames_of(world, seed)
    return frames


def in_the_middle(log: Path) -> tuple[int, str]:
    """Wait until a piece of work is under way; return its key and the actor that does it."""
    for _ in range(600):
        lines = [line.split() for line in log.read_text().splitlines()]
        done = {key for moment, key, _ in lines if moment == "done"}
        under_way = [(int(key), actor) for moment, key, actor in lines if moment == "begun" and key not in done]
        if under_way:
            return under_way[-1]
        time.sleep(0.05)
    raise AssertionError("no work is under way")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("count", "restart"), [(2, False), (1, True)], ids=["one of two, for good", "the only one, restarted by Ray"]
)
def test_an_actor_killed_in_the_middle_costs_nothing_but_time(
    count: int, restart: bool, ray: Any, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    make = functools.partial(card, 0.4)  # two chunks: 0.8 s
    expected = alone(card, frames_of, range(5))
    results = {}
    with open_workers(make, count) as workers:
        for key, frames in workers.stream(functools.partial(logged, log=log), range(5)):
            if not results:
                lost, victim = in_the_middle(log)
                handles = {handle._actor_id.hex(): handle for handle in workers.handles}  # type: ignore[attr-defined]
                ray.kill(handles[victim], no_restart=not restart)
            assert key not in results
            results[key] = frames
        for handle in workers.handles:  # type: ignore[attr-defined]
            ray.kill(handle)  # all at once, between two streams
        assert dict(workers.stream(lambda _, key: -key, [1, 2])) == {1: -1, 2: -2}
    np.testing.assert_array_equal([results[key] for key in range(5)], expected)
    begun = [line.split()[1] for line in log.read_text().splitlines() if line.startswith("begun")]
    assert begun.count(str(lost)) == 2
    assert len(begun) == 6


@pytest.mark.slow
def test_work_that_ends_every_worker_is_given_up(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldplay_env.workers.actors.RETRIES", 0)
    with open_workers(int, 1) as workers, pytest.raises(WorkerLost, match="while doing 7"):
        list(workers.stream(lambda _, key: os._exit(1) if key == 7 else key, [6, 7, 8]))


@pytest.mark.slow
def test_workers_that_end_as_they_begin_are_given_up(ray: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("worldplay_env.workers.actors.RETRIES", 0)
    with open_workers(lambda: os._exit(1), 1) as workers, pytest.raises(WorkerLost, match="while getting ready"):
        list(workers.stream(lambda _, key: key, [1]))


def fail(_: int, key: int) -> int:
    if key == 1:
        raise worldplay_env.WorldError(f"no memory for {key}")
    return key


@pytest.mark.parametrize("count", [None, pytest.param(2, marks=pytest.mark.slow)])
def test_what_the_work_raises_is_raised_as_it_was(count: int | None, request: pytest.FixtureRequest) -> None:
    if count is not None:
        request.getfixturevalue("ray")
    with open_workers(int, count) as workers:
        with pytest.raises(worldplay_env.WorldError) as caught:
            list(workers.stream(fail, range(3)))
        assert str(caught.value) == "no memory for 1"
        assert type(caught.value) is worldplay_env.WorldError
        assert sorted(workers.stream(fail, [2, 3])) == [(2, 2), (3, 3)]
    with (
        open_workers(functools.partial(worldplay_env.load, "nowhere"), count) as workers,
        pytest.raises(ValueError, match="unknown world 'nowhere'"),
    ):
        list(workers.stream(fail, range(3)))
