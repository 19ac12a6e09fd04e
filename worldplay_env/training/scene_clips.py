"""Training data, rendered as it is needed: scenes, paths through them, clips of video."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from worldplay_env.control.actions import NUM_ACTIONS
from worldplay_env.control.camera import DEFAULT_INTRINSICS
from worldplay_env.worlds.scene.build import HELD_OUT_SEED, Scene, build, level_poses, stack
from worldplay_env.worlds.scene.collision import is_free
from worldplay_env.worlds.scene.render import Renderer
from worldplay_env.worlds.scene.walk import between, motion_matrices, motion_table, walk


@dataclass(frozen=True)
class CameraPaths:
    """Cameras of B clips, in their scenes' coordinates.

    Attributes:
        which: int64 [B], the scene of each.
        poses: float64 [B, N, 4, 4], one a latent frame: the true ones, where walls stopped the motion.
        blocked: bool [B, N - 1], whether a motion was stopped.
    """

    which: np.ndarray
    poses: np.ndarray
    blocked: np.ndarray


class SceneClips:
    """Clips of random scenes along random paths, rendered on the device.

    Args:
        scenes: The scenes, or their seeds; training uses `training_seeds`.
        size: Height and width of a frame.
        device: Where frames are rendered.
        compile: Whether to fuse the renderer; where that fails it runs unfused.
        frames_at_once: See `Renderer`.
        edition: Of the scenes that are given by their seeds; all must be of one.
    """

    def __init__(
        self,
        scenes: Sequence[Scene | int],
        size: tuple[int, int],
        device: torch.device,
        *,
        compile: bool = False,
        frames_at_once: int | None = None,
        edition: int = 1,
    ) -> None:
        self.scenes = [build(scene, edition) if isinstance(scene, int) else scene for scene in scenes]
        self._solids = np.stack([scene.solids for scene in self.scenes])
        self._bounds = np.stack([scene.bounds for scene in self.scenes])
        self.intrinsics = torch.tensor(DEFAULT_INTRINSICS, dtype=torch.float32, device=device)
        batch = self._batch = stack(self.scenes, device)
        self.renderer = Renderer(batch, size, compile=compile, frames_at_once=frames_at_once)
        if compile:
            try:
                self.render(np.zeros(1, np.int64), self.scenes[0].start[None, None])
            except Exception as error:  # whatever a compiler can raise: the plain renderer gives the same frames
                print(f"the renderer could not be compiled, it runs unfused: {type(error).__name__}: {error}"[:500])
                self.renderer = Renderer(batch, size, frames_at_once=frames_at_once)

    def starts(self, rng: np.random.Generator, which: np.ndarray, *, level: float) -> np.ndarray:
        """Draw a free camera in each scene of `which` [B]: float64 [B, 4, 4].

        A share `level` of them is at eye level and looks straight ahead, as rollouts begin; the others are at other
        heights too and look up or down.
        """
        tries, count = 12, len(which)
        low, high = self._bounds[which, 0], self._bounds[which, 1]  # [B, 3]
        drawn = rng.uniform(low[:, None], high[:, None], (count, tries, 3))
        tilted = rng.random(count) >= level
        drawn[..., 1] = np.where(tilted[:, None], drawn[..., 1] * 0.6, 0.0)
        solids, bounds = (np.repeat(part[which], tries, axis=0) for part in (self._solids, self._bounds))
        free = is_free(solids, bounds, drawn.reshape(-1, 3)).reshape(count, tries)
        chosen = drawn[np.arange(count), free.argmax(1)]
        poses = level_poses(chosen[:, 0], chosen[:, 2], rng.uniform(-np.pi, np.pi, count))
        poses[:, 1, 3] = chosen[:, 1]
        motion = np.zeros((count, 4))
        motion[:, 3] = tilted * rng.normal(0, np.radians(15), count).clip(-np.radians(45), np.radians(45))
        poses = poses @ motion_matrices(motion)
        own = np.stack([self.scenes[index].start for index in which])
        return np.where(np.logical_or.reduce(free, axis=1)[:, None, None], poses, own)

    def walk(self, which: np.ndarray, starts: np.ndarray, labels: np.ndarray) -> CameraPaths:
        """Follow action labels [B, N - 1] from the starts [B, 4, 4]."""
        poses, blocked = walk([self.scenes[index] for index in which], starts, motion_table()[labels])
        return CameraPaths(which, poses, blocked)

    def wander(self, rng: np.random.Generator, count: int, latents: int) -> CameraPaths:
        """Draw `count` paths of `latents` poses, for clips: actions held or changing, stops and turns among them."""
        which = rng.integers(len(self.scenes), size=count)
        return self.walk(which, self.begin(rng, which), held_labels(rng, count, latents - 1))

    def begin(self, rng: np.random.Generator, which: np.ndarray, *, level: float = 0.75) -> np.ndarray:
        """Draw where paths begin, float64 [B, 4, 4]: half of them at the scene's own start, as rollouts do."""
        own = np.stack([self.scenes[index].start for index in which])
        return np.where(rng.random(len(which))[:, None, None] < 0.5, own, self.starts(rng, which, level=level))

    def render(self, which: np.ndarray, poses: np.ndarray) -> Tensor:
        """Render B clips along poses [B, N, 4, 4], one a latent frame: uint8 [B, 4 N - 3, H, W, 3] on the device."""
        cameras = between(poses)
        count, frames = cameras.shape[:2]
        device = self.renderer.device
        scene_of_frame = torch.from_numpy(np.repeat(which, frames)).to(device, non_blocking=True)
        c2w = torch.from_numpy(cameras.reshape(-1, 4, 4).astype(np.float32)).to(device, non_blocking=True)
        return self.renderer.frames(scene_of_frame, c2w, self.intrinsics).unflatten(0, (count, frames))

    def depth(self, which: np.ndarray, poses: np.ndarray, size: tuple[int, int]) -> Tensor:
        """Render B clips' depth at poses [B, N, 4, 4]: float32 [B, N, height, width], inf for sky."""
        count, frames = poses.shape[:2]
        c2w = torch.from_numpy(poses.reshape(-1, 4, 4))
        scene_of_frame = torch.from_numpy(np.repeat(which, frames))
        depth = Renderer(self._batch, size).depth(scene_of_frame, c2w, self.intrinsics)
        return depth.unflatten(0, (count, frames))


def training_seeds(count: int, seed: int = 0) -> range:
    """Return seeds of `count` scenes for training, another set for another `seed`; never a held-out one.

    Raises:
        ValueError: The set would reach into the held-out seeds.
    """
    first = seed * 50_000
    if not 0 <= first <= first + count <= HELD_OUT_SEED:
        raise ValueError(
            f"{count} scenes from seed {first} on would reach the held-out seeds ({HELD_OUT_SEED} and up)"
        )
    return range(first, first + count)


def held_labels(rng: np.random.Generator, count: int, steps: int) -> np.ndarray:
    """Draw action labels int64 [count, steps]: each is held for 1 to 12 latent frames; some stand still."""
    labels = rng.integers(NUM_ACTIONS, size=(count, steps))
    labels[rng.random((count, steps)) < 0.06] = 0
    changes = rng.random((count, steps)) < rng.choice((1.0, 0.3, 0.1), size=(count, 1))
    changes[:, :1] = True
    since = np.maximum.accumulate(np.where(changes, np.arange(steps), 0), axis=1)
    return np.take_along_axis(labels, since, axis=1)


class Clips(NamedTuple):
    """B clips of T latent frames.

    Attributes:
        frames: uint8 [B, 4 T - 3, H, W, 3].
        depth: float32 [B, T, rows, columns] at the latent frames' poses, as the renderer returns it.
    """

    frames: Tensor
    depth: Tensor


def held_out_clips(
    count: int,
    latents: int,
    size: tuple[int, int],
    depth_size: tuple[int, int],
    device: torch.device,
    *,
    goes_on: Callable[[], bool] = lambda: True,
) -> Clips:
    """Render the fixed clips that stages report on, of held-out scenes, and their depth at its own size.

    After each of them `goes_on` says whether there is to be another.
    """
    clips = SceneClips(range(HELD_OUT_SEED + 50_000, HELD_OUT_SEED + 50_000 + count), size, device)
    rng = np.random.default_rng(0)
    which = np.arange(count)
    path = clips.walk(which, clips.begin(rng, which), held_labels(rng, count, latents - 1))
    frames, depths = [], []
    for one in which[:, None]:
        frames.append(clips.render(one, path.poses[one]))
        depths.append(clips.depth(one, path.poses[one], depth_size))
        if not goes_on():
            break
    return Clips(torch.cat(frames), torch.cat(depths))
