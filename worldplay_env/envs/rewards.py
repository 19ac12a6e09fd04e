"""Reward functions: batched functions of a `Transition`, the argument `reward` of an env or vector env.

    gymnasium.make("WorldPlay/Scene-v0", reward=worldplay_env.cover_ground(cell=0.5))

Any function from a transition of N worlds to N numbers is a reward. A single env has N = 1 and accepts a plain number
too.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from worldplay_env.control.camera import check_poses
from worldplay_env.media.image import ImageSource, fit_image, read_image

if TYPE_CHECKING:
    import torch
from worldplay_env.envs.transition import KINDS, SPACES, Goal, Reward, RewardError, Transition


def evaluate(reward: Reward, transition: Transition) -> np.ndarray:
    """Return the rewards of N worlds, float64 [N].

    Raises:
        RewardError: The function raised, or did not return N numbers that are finite in float32.
    """
    function = reward.func if isinstance(reward, functools.partial) else reward
    count, name = len(transition.poses), getattr(function, "__name__", repr(function))
    try:
        values = reward(transition)
        if hasattr(values, "detach"):  # a tensor
            values = values.detach().cpu().double().numpy()
        given = np.asarray(values)
        if given.dtype.kind not in "biuf":
            raise TypeError(f"rewards are real numbers, got {given.dtype}")
        rewards = given.astype(np.float64)
        if count == 1 and rewards.ndim == 0:
            rewards = rewards[None]
    except Exception as error:
        raise RewardError(f"the reward function {name} raised {error!r}; nothing was changed") from error
    if rewards.shape != (count,):
        raise RewardError(
            f"the reward function {name} must return one number for each of {count} worlds, shape ({count},), got "
            f"shape {rewards.shape}; nothing was changed"
        )
    finite = np.abs(rewards) <= np.finfo(np.float32).max  # which tensors of rewards are in
    if not finite.all():
        bad = int(np.argmin(finite))
        raise RewardError(
            f"the reward function {name} must return finite numbers, got {rewards[bad]} for world {bad}; nothing was "
            "changed"
        )
    return rewards


def append_poses(past: np.ndarray, poses: np.ndarray) -> np.ndarray:
    """Return an episode's path after a chunk, read-only float64 [T, 4, 4] with T = 4, 8, 12, ...

    Args:
        past: The path before it, float64 [T, 4, 4]; [1, 4, 4], the start's pose, before the first chunk.
        poses: float64 [4, 4, 4], the chunk's; in the first chunk they begin with the start's own.
    """
    path = np.array(poses) if len(past) == 1 else np.concatenate([past, poses])
    path.flags.writeable = False
    return path


def start_path(pose: np.ndarray) -> np.ndarray:
    """Return the path of an episode that begins at a pose [4, 4]: read-only float64 [1, 4, 4]."""
    path = np.array(pose, dtype=np.float64)[None]
    path.flags.writeable = False
    return path


# ---- where the camera is


def pose_error(poses: np.ndarray, goals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the distances between poses in world units and the angles in degrees, float64 [...] each.

    Args:
        poses: Camera-to-world matrices [..., 4, 4].
        goals: Camera-to-world matrices whose shape broadcasts with `poses`.
    """
    distance = np.linalg.norm(poses[..., :3, 3] - goals[..., :3, 3], axis=-1)
    # |A - B| = 2 sqrt(2) sin(angle / 2) for rotations; unlike the arccosine of a trace, exact for small angles.
    chord = np.linalg.norm(poses[..., :3, :3] - goals[..., :3, :3], axis=(-2, -1))
    return distance, np.degrees(2 * np.arcsin(np.minimum(chord / np.sqrt(8), 1)))


def reached(transition: Transition, goals: np.ndarray, distance: float, angle: float) -> np.ndarray:
    """Return which of N worlds ended the step within `distance` units and `angle` degrees of its goal: bool [N].

    Args:
        transition: The step.
        goals: Camera-to-world matrices [N, 4, 4], or one for all [4, 4].
        distance: World units.
        angle: Degrees.
    """
    units, degrees = pose_error(transition.poses[:, -1], goals)
    return (units <= distance) & (degrees <= angle)


def progress(transition: Transition, goals: np.ndarray) -> np.ndarray:
    """Return the decrease of each world's potential in the step: float64 [N].

    The potential is the distance to the goal in world units plus the angle in radians. Over an episode progress adds
    up to the first potential minus the last, so it does not change the optimal policy (Ng, Harada and Russell 1999,
    "Policy invariance under reward transformations").
    """
    before = _left(np.stack([path[-1] for path in transition.past]), goals)
    return before - _left(transition.poses[:, -1], goals)


def _left(poses: np.ndarray, goals: np.ndarray) -> np.ndarray:
    units, degrees = pose_error(poses, goals)
    return units + np.radians(degrees)


# ---- reward functions


def reach_pose(pose: np.ndarray, *, distance: float = 0.25, angle: float = 10.0, reward: str = "dense") -> Reward:
    """Return a reward for reaching a pose.

    Args:
        pose: float64 [4, 4], a camera-to-world matrix; an env's episodes start at the identity.
        distance: World units within which the pose is reached.
        angle: Degrees within which the pose is reached.
        reward: "dense" for the progress of each step (world units plus radians) and 1 for each step that ends at the
            pose; "sparse" for the 1 alone.

    Raises:
        ValueError: A matrix that is no pose, an unknown kind of reward, a distance or angle that is not positive.
    """
    check_poses(np.asarray(pose)[None])
    check_arrival(distance, angle, reward)
    goal = np.array(pose, dtype=np.float64)
    return functools.partial(reach_reward, goals=goal, distance=distance, angle=angle, reward=reward)


def reach_reward(
    transition: Transition, goals: np.ndarray, *, distance: float, angle: float, reward: str = "dense"
) -> np.ndarray:
    """Return the rewards for reaching poses, float64 [N]; see `reach_pose`. `goals` are [N, 4, 4] or [4, 4]."""
    there = reached(transition, goals, distance, angle).astype(np.float64)
    return there if reward == "sparse" else there + progress(transition, goals)


def check_arrival(distance: float, angle: float, reward: str) -> None:
    """Raise ValueError for a distance or an angle that is not positive, or an unknown kind of reward."""
    check_positive("distance", distance)
    check_positive("angle", angle)
    if reward not in KINDS:
        raise ValueError(f"unknown reward {reward!r}: known are {', '.join(KINDS)}")


def check_positive(name: str, value: Any, what: str = "a positive number") -> None:
    """Raise ValueError unless a value is a positive, finite number; `what` names it in the message."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ValueError(f"{name} must be {what}, got {value!r}")


def reach_view(goal: ImageSource | None = None, *, space: str = "pixels") -> Reward:
    """Return a reward for seeing a goal's view: minus the distance between the newest view and the goal.

    Args:
        goal: A picture (see `read_image`), which is scaled and cropped to the world's size; in latents, a float array
            [channels, 1, rows, columns] or a tensor of that shape. By default the goal of the env's task.
        space: "pixels" for the mean absolute difference of the newest frames, as a part of 255: 0 to 1. It needs
            frames, which `observation="latent"` does not make. "latents" for the root mean square difference of the
            newest latent frames.

    Raises:
        ValueError: An unknown space, a picture that cannot be read (`ImageError`), latents of another shape.
    """
    if space not in SPACES:
        raise ValueError(f"unknown space {space!r}: known are {', '.join(SPACES)}")
    if space == "pixels":
        return functools.partial(_nearer_in_pixels, goal=None if goal is None else read_image(goal))
    if goal is None:
        return functools.partial(_nearer_in_latents, goal=None)
    latent = np.array(goal.detach().cpu().numpy() if hasattr(goal, "detach") else goal, dtype=np.float32)
    if latent.ndim != 4 or latent.shape[1] != 1:
        raise ValueError(f"a goal in latents is [channels, 1, rows, columns], got {list(latent.shape)}")
    if not np.isfinite(latent).all():
        raise ValueError("a goal in latents must be finite, got NaN or infinity")
    return functools.partial(_nearer_in_latents, goal=latent)


def _nearer_in_pixels(transition: Transition, goal: np.ndarray | None) -> torch.Tensor:
    import torch

    if transition.frames is None:
        raise ValueError('there are no frames: use observation="chunk" or "last", or compare latents')
    if goal is not None:
        height, width = transition.frames.shape[1:3]
        wanted = fit_image(goal, (height, width))[None]  # [1, H, W, 3]
    else:
        wanted = np.stack([_given(one.picture, "picture") for one in _goals(transition)])  # [N, H, W, 3]
    difference = transition.frames.float() - torch.from_numpy(wanted).to(transition.frames.device).float()
    return -difference.abs().mean(dim=(1, 2, 3)) / 255


def _nearer_in_latents(transition: Transition, goal: np.ndarray | None) -> torch.Tensor:
    import torch

    if transition.latents is None:
        raise ValueError("this world has no latents: compare pixels")
    if goal is not None:
        wanted = goal[None]  # [1, C, 1, h, w]
    else:
        wanted = np.stack([_given(one.latent, "latent") for one in _goals(transition)])  # [N, C, 1, h, w]
    newest = transition.latents[:, :, -1:]
    if newest.shape[1:] != wanted.shape[1:]:
        raise ValueError(f"the goal's latents are {list(wanted.shape[1:])}, this world's {list(newest.shape[1:])}")
    difference = newest - torch.from_numpy(wanted).to(newest.device)
    return -difference.square().mean(dim=(1, 2, 3, 4)).sqrt()


def _goals(transition: Transition) -> Sequence[Goal]:
    if transition.goals is None:
        raise ValueError('there is no goal: give reach_view one, or the env task="reach"')
    return transition.goals


def _given(value: np.ndarray | None, name: str) -> np.ndarray:
    if value is None:
        raise ValueError(f"the task's goal has no {name}: this env or its world makes none")
    return value


def cover_ground(cell: float = 0.25) -> Reward:
    """Return a reward for exploring: the number of map cells that the episode enters for the first time.

    Args:
        cell: World units along a side of a square cell of the plane that the start's x and z axes span; one is
            centred on the origin.

    Raises:
        ValueError: A side that is not positive.
    """
    check_positive("cell", cell, "a positive number of world units")
    return functools.partial(_new_cells, cell=cell)


def cells_of(poses: np.ndarray, cell: float) -> np.ndarray:
    """Return the cells of the map that camera positions lie in.

    Args:
        poses: float64 [T, 4, 4], camera-to-world matrices.
        cell: World units along a side of a square cell; see `cover_ground`.

    Returns:
        int64 [T, 2], indices along the x and z axes.
    """
    return np.rint(poses[:, [0, 2], 3] / cell).astype(np.int64)


def _new_cells(transition: Transition, cell: float) -> np.ndarray:
    def cells(poses: np.ndarray) -> set[tuple[int, int]]:
        return {(x, z) for x, z in cells_of(poses, cell).tolist()}

    return np.array(
        [len(cells(poses) - cells(past)) for poses, past in zip(transition.poses, transition.past, strict=True)],
        dtype=np.float64,
    )
