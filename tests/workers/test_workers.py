"""Work spread over Ray's actors: the same results for any number of them, with one lost midway, and without Ray."""

from __future__ import annotations

import builtins
import functools
import logging
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import small_world
import torch
from scripts import load_script, run_script

import worldplay_env
from worldplay_env.evaluate.run import evaluate
from worldplay_env.workers import Agent, RecordedEpisode, WorkerLost, collect, open_workers
from worldplay_env.worlds.base import Start, World
from worldplay_env.worlds.diffusion.world import DreamWorld

SIZE = (16, 24)


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """Ray, started once for all tests that ask for it; what is defined in tests travels to its actors by value."""
    ray = pytest.importorskip("ray")
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    modules = (sys.modules[__name__], small_world)
    for module in modules:
        ray.cloudpickle.register_pickle_by_value(module)
    yield ray
    for module in modules:
        ray.cloudpickle.unregister_pickle_by_value(module)
    ray.shutdown()


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing Ray fails in the package as where it is not installed; a Ray that runs already is not disturbed."""
    real = builtins.__import__

    def importing(name: str, globals: Any = None, *others: Any) -> Any:
        if name == "ray" and (globals or {}).get("__name__", "").startswith("worldplay_env."):
            raise ModuleNotFoundError("No module named 'ray'", name="ray")
        return real(name, globals, *others)

    monkeypatch.setattr(builtins, "__import__", importing)


def card(seconds_per_chunk: float = 0.0) -> World:
    return worldplay_env.load("testcard", image_size=SIZE, seconds_per_chunk=seconds_per_chunk)


def frames_of(world: World, seed: int) -> np.ndarray:
    """Return the film of a rollout of two chunks: uint8 [29, H, W, 3]."""
    rollout = world.start(Start(), seed)
    path = small_world.wander(2, seed)
    frames = [chunk.frames for control in path for chunk in world.step([rollout], [control])]
    return torch.cat([frame for frame in frames if frame is not None]).numpy()


def latents_of(world: DreamWorld, seed: int) -> np.ndarray:
    """Return the newest latents of a dream of seven chunks, the last of which choose their memory."""
    rollout = small_world.begin(world, seed)
    chunks = [world.step([rollout], [control], decode=False)[0] for control in small_world.wander(7, seed)]
    latents = chunks[-1].latents
    assert latents is not None
    return latents.numpy()


def alone(make: Callable[[], Any], work: Callable[[Any, int], Any], keys: range) -> list[Any]:
    """Return what plain calls in this process give, with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        held = make()
        return [work(held, key) for key in keys]
    finally:
        torch.set_num_threads(threads)


def with_workers(
    count: int | None, make: Callable[[], Any], work: Callable[[Any, int], Any], keys: range
) -> list[Any]:
    """Return the same from workers, in the order of the keys."""
    with open_workers(make, count) as workers:
        pairs = list(workers.stream(work, keys))
    results = dict(pairs)
    assert len(pairs) == len(results) == len(keys)  # each key once
    return [results[key] for key in keys]


# ---- the same whoever works


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


def make_env() -> gym.Env[Any, Any]:
    return gym.make("WorldPlay/Testcard-v0", world=card(), observation="last", max_episode_steps=3)


class Drifter:
    """Goes where what it sees, its seed and the steps so far send it."""

    def __init__(self, env: gym.Env[Any, Any], seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def act(self, obs: np.ndarray, info: dict[str, Any]) -> int:
        return int(obs.sum() + info["step"] + self.random.integers(81)) % 81


def episodes(
    count: int | None, make_agent: Callable[[gym.Env[Any, Any], int], Agent] = Drifter
) -> list[RecordedEpisode]:
    found = list(collect(make_env, make_agent, range(4), workers=count, threads=1))
    return sorted(found, key=lambda episode: episode.seed)


def assert_equal(found: list[RecordedEpisode], expected: list[RecordedEpisode]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.arrays().keys() == other.arrays().keys()
        for name, array in one.arrays().items():
            np.testing.assert_array_equal(array, other.arrays()[name], err_msg=name, strict=True)


@pytest.mark.slow
def test_episodes_do_not_depend_on_who_plays_them(ray: Any) -> None:
    expected = episodes(None)
    assert len({tuple(episode.actions) for episode in expected}) == 4
    found = episodes(2)
    assert_equal(found, expected)
    found[0].observations[:] = 0  # one's own to write in, as without Ray


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


# ---- as they come


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


# ---- losses


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


# ---- room


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


# ---- episodes


def test_an_episode_is_what_its_env_gave_step_by_step() -> None:
    [episode] = collect(make_env, Drifter, [5])
    env = make_env()
    obs, info = env.reset(seed=5)
    agent = Drifter(env, 5)
    assert len(episode) == len(episode.actions) == 3
    assert (episode.seed, episode.terminated, episode.truncated) == (5, False, True)
    for step in range(4):
        np.testing.assert_array_equal(episode.observations[step], obs)
        assert episode.infos.keys() == info.keys()
        for name, value in info.items():
            np.testing.assert_array_equal(episode.infos[name][step], value)
        if step < 3:
            action = agent.act(obs, info)
            assert episode.actions[step] == action
            obs, reward, *_, info = env.step(action)
            assert episode.rewards[step] == reward


class Doubled(gym.ObservationWrapper[Any, Any, Any]):
    """Shows a dict, as an env with a goal does."""

    def observation(self, observation: np.ndarray) -> dict[str, np.ndarray]:
        return {"observation": observation, "goal": 255 - observation}


def test_an_episode_is_cut_and_saved_as_arrays(tmp_path: Path) -> None:
    still = SimpleNamespace(act=lambda obs, info: 0)
    [episode] = collect(lambda: Doubled(make_env()), lambda env, seed: still, [0], max_steps=2)
    assert (len(episode), episode.truncated) == (2, True)
    episode.save(tmp_path / "new" / "0.npz")
    with np.load(tmp_path / "new" / "0.npz", allow_pickle=False) as saved:
        assert saved["observations/goal"].shape == (3, *SIZE, 3)
        np.testing.assert_array_equal(saved["observations/goal"], 255 - saved["observations/observation"])
        np.testing.assert_array_equal(saved["actions"], episode.actions)
        assert saved["infos/poses"].shape == (3, 4, 4, 4)
        assert (saved["seed"], saved["truncated"], saved["rewards"].tolist()) == (0, True, [0, 0])
    with pytest.raises(ValueError, match="max_steps must be 1 or more, got 0"):
        list(collect(make_env, Drifter, [0], max_steps=0))


@pytest.mark.slow
def test_the_example_writes_the_same_episodes_with_ray_and_without(
    no_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    arguments = ["--env", "WorldPlay/Testcard-v0", "--episodes", "3", "--steps", "2", "--workers", "2"]
    script = load_script("examples/collect_ray.py")
    monkeypatch.setattr("sys.argv", ["collect_ray.py", *arguments, "--out", str(tmp_path / "alone")])
    script.main()
    assert len(capsys.readouterr().out.splitlines()) == 3
    result = run_script("examples/collect_ray.py", *arguments, "--out", "spread", folder=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 3
    for seed in range(3):
        name = f"episode-{seed:06}.npz"
        with np.load(tmp_path / "alone" / name) as one, np.load(tmp_path / "spread" / name) as other:
            assert one.keys() == other.keys()
            for part in one:
                np.testing.assert_array_equal(one[part], other[part], err_msg=part, strict=True)
            assert (one["seed"], one["actions"].shape) == (seed, (2,))


def test_the_example_lets_the_scripted_agent_follow_a_path(
    no_ray: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = load_script("examples/collect_ray.py")
    arguments = ["--env", "WorldPlay/Testcard-v0", "--episodes", "1", "--steps", "2", "--pose", "w-3, right-4"]
    monkeypatch.setattr("sys.argv", ["collect_ray.py", *arguments, "--out", str(tmp_path)])
    script.main()
    expected = worldplay_env.load_trajectory("w-3, right-4").poses
    with np.load(tmp_path / "episode-000000.npz") as episode:
        poses = episode["infos/poses"][1:].reshape(-1, 4, 4)
        np.testing.assert_allclose(poses, expected, atol=1e-12)
