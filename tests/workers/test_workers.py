"""Work spread over Ray's actors: the same results for any number of them, and without Ray."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_world
import torch
from spread import alone, card, frames_of, with_workers

from worldplay_env.evaluate.run import evaluate
from worldplay_env.workers import open_workers
from worldplay_env.worlds.diffusion.world import DiffusionWorld


def latents_of(world: DiffusionWorld, seed: int) -> np.ndarray:
    """Return the newest latents of a dream of seven chunks, the last of which choose their memory."""
    rollout = small_world.begin(world, seed)
    chunks = [world.step([rollout], [control], decode=False)[0] for control in small_world.wander(7, seed)]
    latents = chunks[-1].latents
    assert latents is not None
    return latents.numpy()


@pytest.mark.slow
def test_a_dream_is_the_same_bit_for_bit_whoever_dreams_it(ray: Any) -> None:
    expected = alone(small_world.small_world, latents_of, range(6))
    found = with_workers(2, small_world.small_world, latents_of, range(6))
    np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(found[0], found[1])


def table(count: int | None, out: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return all that an evaluation in four scenes says, without what was timed, and its pictures."""
    scenes = range(900_000, 900_004)
    with open_workers(card, count, threads=1) as workers:
        rows, record = evaluate(workers, scenes, out, batch=1, all_actions=0, drift=0)
    assert len(rows) == len(record["rows"])
    untimed = {name: record[name] for name in ("world", "curve", "scenes", "versions")}
    pictures = {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.png"))}
    return {**untimed, "rows": record["rows"][:-1]}, pictures


@pytest.mark.slow
def test_one_two_and_four_actors_give_the_table_of_one_process(ray: Any, tmp_path: Path) -> None:
    expected, pictures = table(None, tmp_path / "alone")
    assert [scene["seed"] for scene in expected["scenes"]] == [900_000, 900_001, 900_002, 900_003]
    assert len({scene["short"]["world"]["whole_psnr"] for scene in expected["scenes"]}) == 4
    assert len(pictures) == 9
    for count in (1, 2, 4):
        assert table(count, tmp_path / str(count)) == (expected, pictures)


def test_without_ray_one_process_gives_the_same_and_says_so(
    no_ray: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    expected = alone(card, frames_of, range(3))
    found = with_workers(4, card, frames_of, range(3))
    np.testing.assert_array_equal(found, expected)
    [line] = caplog.messages
    assert "no Ray for 4 workers" in line
    assert "one process" in line
    assert "\n" not in line


def test_one_process_that_was_asked_for_says_nothing(no_ray: None, caplog: pytest.LogCaptureFixture) -> None:
    assert with_workers(None, int, lambda held, key: held + key, range(3)) == [0, 1, 2]
    assert not caplog.messages


@pytest.mark.slow
def test_results_come_as_they_are_made_and_nobody_waits_for_the_slowest(ray: Any) -> None:
    def wait(_: int, seconds: float) -> float:
        time.sleep(seconds)
        return seconds

    with open_workers(int, 2) as workers:
        list(workers.stream(wait, [0.5, 0.6]))  # both stand ready
        keys = [3.0, 0.01, 0.02, 0.03]
        assert [key for key, _ in workers.stream(wait, keys)] == [0.01, 0.02, 0.03, 3.0]
        assert list(workers.stream(wait, [])) == []


def test_one_process_works_only_as_results_are_taken() -> None:
    begun: list[int] = []
    with open_workers(int) as workers:
        stream = workers.stream(lambda _, key: begun.append(key), range(3))
        assert not begun
        next(stream)
        assert begun == [0]


def test_what_is_held_is_made_once_and_closed_at_the_end() -> None:
    class Counted:
        made = closed = 0

        def __init__(self) -> None:
            Counted.made += 1

        def close(self) -> None:
            Counted.closed += 1

    with open_workers(Counted) as workers:
        assert Counted.made == 0
        list(workers.stream(lambda held, key: key, range(3)))
        list(workers.stream(lambda held, key: key, range(3)))
        assert (Counted.made, Counted.closed) == (1, 0)
    assert (Counted.made, Counted.closed) == (1, 1)


def test_one_process_computes_with_the_threads_asked_for_and_puts_them_back() -> None:
    before = torch.get_num_threads()
    with open_workers(int, threads=before + 1) as workers:
        for _, during in workers.stream(lambda _, key: torch.get_num_threads(), range(2)):
            assert during == before + 1
            assert torch.get_num_threads() == before


@pytest.mark.slow
def test_nothing_is_left_running() -> None:
    pytest.importorskip("ray")
    program = """
import os, time
from worldplay_env.workers import open_workers
def parents(_, key):
    time.sleep(0.5)
    return os.getpid(), os.getppid()
with open_workers(int, 2) as workers:
    print(*{pid for _, pids in workers.stream(parents, range(4)) for pid in pids})
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 3  # two actors, and the one process of Ray's that began them
    deadline = time.monotonic() + 10
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, pids))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize(("gpus", "count"), [(1, 1), (1, 4), (2, 3), (4, 4), (8, 3), (3, 10)])
def test_there_is_a_gpu_or_a_part_of_one_for_every_actor(
    gpus: int, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    from worldplay_env.workers import actors

    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0, "GPU": float(gpus)})
    share = actors._gpus_each("cuda", count)
    assert gpus * math.floor(1 / share + 1e-9) >= count
    assert share == 1 or gpus < count
    assert actors._gpus_each(None, count) == share
    assert actors._gpus_each("cpu", count) == 0
    with pytest.raises(ValueError, match="cuda:1"):
        actors._gpus_each("cuda:1", count)
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 4.0})
    assert actors._gpus_each(None, count) == 0
    with pytest.raises(ValueError, match="no GPU"):
        actors._gpus_each("cuda", count)


@pytest.mark.slow
def test_more_actors_than_there_is_room_for_leave_the_work_to_the_others(ray: Any) -> None:
    def work(held: int, key: int) -> int:
        return held + key

    with open_workers(int, 2, threads=3) as workers:  # of the four CPUs that Ray was given
        assert list(workers.stream(work, range(4))) == [(key, key) for key in range(4)]
    with pytest.raises(ValueError, match="9 threads"), open_workers(int, 1, threads=9):
        pass


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "workers must be 1 or more, got 0"),
        ({"count": 2, "threads": 0}, "threads must be 1 or more, got 0"),
        ({"address": "auto"}, "'auto'"),
    ],
)
def test_bad_numbers_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message), open_workers(int, **options):
        pass
