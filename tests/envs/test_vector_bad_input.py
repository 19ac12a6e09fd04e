"""Whatever a vector env is given that it cannot use: a clear error, and rows that go on as if nothing had been."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from envs import PICTURES
from gymnasium.error import Error as GymnasiumError
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import data_equivalence
from vectors import batched, play

from worldplay_env import ImageError, InvalidAction, RewardError, WorldError
from worldplay_env.envs.vector import WorldPlayVectorEnv
from worldplay_env.worlds.testcard import Testcard


class Case(NamedTuple):
    """What is done to a vector env of three rows, and what it says to that."""

    name: str
    attempt: Callable[[WorldPlayVectorEnv], object]
    error: type[Exception]
    message: str


def step(actions: Any) -> Callable[[WorldPlayVectorEnv], object]:
    return lambda env: env.step(actions)


def reset(**arguments: Any) -> Callable[[WorldPlayVectorEnv], object]:
    return lambda env: env.reset(**arguments)


def masked(mask: Any) -> Callable[[WorldPlayVectorEnv], object]:
    return reset(options={"reset_mask": mask})


def restored(**arguments: Any) -> Callable[[WorldPlayVectorEnv], object]:
    """Return the attempt to restore a snapshot of an env of other arguments."""

    def attempt(env: WorldPlayVectorEnv) -> None:
        other = batched(**{"num_envs": 3, "world": env.world, **arguments})
        other.reset()
        env.restore(other.snapshot())

    return attempt


ACTION = "an action is 3 whole numbers 0..80, got "
CASES = [
    Case("actions too few", step([9, 9]), InvalidAction, ACTION + "[9, 9]"),
    Case("actions too many", step([9] * 4), InvalidAction, ACTION),
    Case("actions one", step(9), InvalidAction, ACTION + "9"),
    Case("actions none", step(None), InvalidAction, ACTION + "None"),
    Case("actions empty", step([]), InvalidAction, ACTION + "[]"),
    Case("actions nested", step([[9, 9, 9]]), InvalidAction, ACTION),
    Case("actions of latent frames", step(np.zeros((3, 4), dtype=int)), InvalidAction, ACTION),
    Case("actions ragged", step([9, [9], 9]), InvalidAction, ACTION),
    Case("actions floats", step(np.zeros(3)), InvalidAction, ACTION),
    Case("actions bools", step(np.zeros(3, dtype=bool)), InvalidAction, ACTION),
    Case("actions strings", step(["w", "a", "d"]), InvalidAction, ACTION),
    Case("actions objects", step(np.array([9, 9, 9], dtype=object)), InvalidAction, ACTION),
    Case("action too large", step([9, 81, 9]), InvalidAction, ACTION + "[9, 81, 9]"),
    Case("action negative", step([9, 9, -1]), InvalidAction, ACTION + "[9, 9, -1]"),
    Case("tensor of floats", step(torch.zeros(3)), InvalidAction, ACTION),
    Case("tensor too long", step(torch.zeros(4, dtype=torch.int64)), InvalidAction, ACTION),
    Case(
        "mask too short",
        masked(np.ones(2, dtype=bool)),
        ValueError,
        "must have shape (3,), one boolean an env, got (2,)",
    ),
    Case("mask too long", masked(np.ones(4, dtype=bool)), ValueError, "must have shape (3,)"),
    Case("mask nested", masked(np.ones((1, 3), dtype=bool)), ValueError, "got (1, 3)"),
    Case("mask empty", masked(np.zeros(0, dtype=bool)), ValueError, "got (0,)"),
    Case("mask of nothing", masked(np.zeros(3, dtype=bool)), ValueError, "has no True"),
    Case(
        "mask of numbers",
        masked(np.ones(3, dtype=int)),
        TypeError,
        "an array of booleans, one an env, got an array of int64",
    ),
    Case("mask a list", masked([True, False, False]), TypeError, "an array of booleans, one an env, got list"),
    Case("mask none", masked(None), TypeError, "an array of booleans, one an env, got NoneType"),
    Case(
        "option unknown", reset(options={"mask": 1}), ValueError, "option 'mask': known are reset_mask, image, prompt"
    ),
    Case("options a list", reset(options=["image"]), TypeError, "options must be a dict, got list"),
    Case(
        "images too few",
        reset(options={"image": [PICTURES[0]]}),
        ValueError,
        '["image"] is a list of 1: give one image for each of 3 envs',
    ),
    Case(
        "an image that is none",
        reset(options={"image": [PICTURES[0], "missing.png", None]}),
        ImageError,
        "missing.png",
    ),
    Case("an image of numbers", reset(options={"image": np.zeros((4, 4))}), ImageError, "float64"),
    Case("prompts too many", reset(options={"prompt": ["a"] * 4}), ValueError, '["prompt"] is a list of 4'),
    Case(
        "prompt a number",
        reset(options={"prompt": ["a", 3, "b"]}),
        TypeError,
        "the prompt must be a string, got int: 3",
    ),
    Case("seeds too few", reset(seed=[1, 2]), ValueError, "2 seeds for 3 envs"),
    Case("seed a string", reset(seed="1"), TypeError, "a whole number, a list of them or None, got '1'"),
    Case("seeds a string", reset(seed="123"), TypeError, "a whole number, a list of them or None, got '123'"),
    Case("seed an array of no dimension", reset(seed=np.array(3)), TypeError, "a list of them or None"),
    Case("seed a float", reset(seed=1.0), TypeError, "got 1.0"),
    Case("seed a bool", reset(seed=True), TypeError, "got True"),
    Case("seeds with a float", reset(seed=[1, 2, 3.0]), TypeError, "a seed is a whole number or None, got 3.0"),
    Case("seed negative", reset(seed=-1), GymnasiumError, "-1"),
    Case("last seed negative", reset(seed=[1, 2, -3]), GymnasiumError, "-3"),
    Case("snapshot none", lambda env: env.restore(None), TypeError, "what snapshot() returned"),  # type: ignore[arg-type]
    Case("snapshot of another world", restored(world=Testcard()), ValueError, "another world"),
    Case("snapshot of fewer", restored(num_envs=2), ValueError, "of 2 envs, this vector env has 3"),
    Case("snapshot of another view", restored(observation="latent"), ValueError, "an env that shows"),
    Case("snapshot of tensors", restored(output="torch"), ValueError, "an env that shows"),
]


def running(**arguments: Any) -> WorldPlayVectorEnv:
    """Return a vector env whose row 0 is a step ahead of the others."""
    env = batched(3, **{"world": WORLD, **arguments})
    play(env, 2)
    env.reset(options={"reset_mask": np.array([False, True, True])})
    return env


WORLD = Testcard((16, 16))


def assert_go_on(env: WorldPlayVectorEnv, twin: WorldPlayVectorEnv) -> None:
    """Assert that an env steps, is reset and ends as one to which nothing happened."""
    for one, other in zip(*([it.step([9, 1, 3]) for _ in range(5)] for it in (env, twin)), strict=True):
        assert data_equivalence(one, other, exact=True)
    options = {"reset_mask": np.array([False, True, False])}
    assert data_equivalence(env.reset(options=options), twin.reset(options=options), exact=True)
    assert data_equivalence(env.step([9, 1, 3]), twin.step([9, 1, 3]), exact=True)
    assert data_equivalence(env.reset(), twin.reset(), exact=True)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_an_error_tells_what_was_wrong_and_the_episodes_go_on(case: Case) -> None:
    env, twin = running(max_episode_steps=6), running(max_episode_steps=6)
    with pytest.raises(case.error, match=re.escape(case.message)):
        case.attempt(env)
    assert_go_on(env, twin)


@pytest.mark.parametrize("arguments", [{}, {"task": "reach"}, {"autoreset_mode": "same_step"}])
@pytest.mark.parametrize(
    ("faulty", "message"),
    [
        (lambda step: 1 / 0, "raised ZeroDivisionError"),
        (lambda step: np.full(len(step.poses), np.nan), "finite numbers, got nan for world 0"),
        (lambda step: [0, np.inf, 0], "finite numbers, got inf for world 1"),
        (lambda step: [0.0], "got shape (1,)"),
        (lambda step: 0.0, "got shape ()"),
        (lambda step: ["a"] * 3, "raised TypeError"),
    ],
)
def test_a_reward_that_fails_leaves_every_row_before_the_step(
    faulty: Callable[[Any], Any], message: str, arguments: dict[str, Any]
) -> None:
    def reward(step: Any) -> Any:
        return faulty(step) if failing else step.step * 1.0

    failing = False
    env, twin = (running(reward=reward, max_episode_steps=6, **arguments) for _ in range(2))
    failing = True
    with pytest.raises(RewardError, match=re.escape(message)):
        env.step([9, 1, 3])
    failing = False
    assert_go_on(env, twin)


@pytest.mark.parametrize(
    "failure", [WorldError("not finite"), torch.OutOfMemoryError("out of memory"), KeyboardInterrupt()]
)
@pytest.mark.parametrize("at", ["first part", "last part", "autoreset", "goals"])
@pytest.mark.parametrize("mode", ["next_step", "same_step"])
def test_a_world_that_fails_leaves_every_row_as_it_was(
    monkeypatch: pytest.MonkeyPatch, failure: BaseException, at: str, mode: str
) -> None:
    world = Testcard((16, 16))
    arguments = {"world": world, "max_batch": 2, "autoreset_mode": mode, "max_episode_steps": 3, "task": "reach"}
    env, twin = running(**arguments), running(**arguments)
    for it in (env, twin):
        for _ in range(2 if mode == "same_step" else 3):  # so that rows begin anew in the next step
            it.step([9, 1, 3])
    calls = 0

    def failing(made: Callable[..., Any], number: int) -> Callable[..., Any]:
        def call(*given: Any, **others: Any) -> Any:
            nonlocal calls
            calls += 1
            result = made(*given, **others)
            if calls == number:
                raise failure
            return result

        return call

    with monkeypatch.context() as patch:
        if at == "autoreset":
            patch.setattr(world, "start", failing(world.start, 2))
        else:
            parts = {"first part": 1, "last part": 2 if mode == "same_step" else 1, "goals": 3}
            patch.setattr(world, "step", failing(world.step, parts[at]))
        with pytest.raises(type(failure)):
            env.step([9, 1, 3])
    assert_go_on(env, twin)


def test_a_reset_that_fails_at_its_last_row_leaves_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Testcard((16, 16))
    env, twin = running(world=world), running(world=world)
    start = world.start

    def fail(given: Any, seed: int) -> Any:
        if given.prompt == "last":
            raise WorldError("no memory")
        return start(given, seed)

    with monkeypatch.context() as patch:
        patch.setattr(world, "start", fail)
        with pytest.raises(WorldError):
            env.reset(seed=70, options={"prompt": ["first", "second", "last"]})
    assert env.np_random_seed == twin.np_random_seed
    assert_go_on(env, twin)


@pytest.mark.parametrize(
    "attempt",
    [
        step([9, 9, 9]),
        lambda env: env.snapshot(),
        lambda env: env.rollouts,
        masked(np.array([True, True, False])),
    ],
)
def test_before_the_first_reset_only_a_reset_of_all_works(attempt: Callable[[WorldPlayVectorEnv], object]) -> None:
    env = batched()
    with pytest.raises(ResetNeeded, match=re.escape("reset()")):
        attempt(env)
    env.reset(options={"reset_mask": np.ones(3, dtype=bool)})
    env.step([9, 9, 9])


def test_rendering_needs_a_reset_too() -> None:
    with pytest.raises(ResetNeeded, match="call reset"):
        batched(render_mode="rgb_array").render()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"num_envs": 0}, ValueError, "num_envs must be a whole number of 1 or more, got 0"),
        ({"num_envs": -2}, ValueError, "got -2"),
        ({"num_envs": 2.0}, ValueError, "got 2.0"),
        ({"num_envs": True}, ValueError, "got True"),
        ({"max_batch": 0}, ValueError, "max_batch must be a whole number of 1 or more, got 0"),
        ({"max_episode_steps": 0}, ValueError, "max_episode_steps must be a whole number of 1 or more, got 0"),
        ({"max_episode_steps": 2.5}, ValueError, "got 2.5"),
        ({"autoreset_mode": "never"}, ValueError, "'never': known are next_step, same_step, disabled"),
        ({"autoreset_mode": None}, ValueError, "autoreset_mode None"),
        ({"output": "jax"}, ValueError, "unknown output 'jax': known are numpy, torch"),
        ({"render_mode": "human"}, ValueError, "unknown render mode 'human': known are rgb_array, or None"),
        ({"actions": "words"}, ValueError, "unknown actions 'words': known are chunk, latent, keys"),
        ({"observation": "all"}, ValueError, "unknown observation 'all'"),
        ({"every": 3}, ValueError, "every must be a whole number that divides 16, got 3"),
        ({"task": "flee"}, ValueError, "unknown task 'flee'"),
        ({"world": "atlantis"}, ValueError, "unknown world 'atlantis'"),
        ({"world": Testcard(), "dtype": "float32"}, ValueError, "dtype cannot be set for a world that is loaded"),
        ({"starts": []}, ValueError, "starts is empty"),
    ],
)
def test_a_vector_env_cannot_be_made_of_what_is_not_known(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=re.escape(message)):
        batched(**arguments)
