"""A scene as the truth to compare with: its pictures along a path, and what of them the starting picture shows."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from worldplay_env.control.camera import DEFAULT_INTRINSICS
from worldplay_env.control.layout import LAYOUT, ChunkLayout
from worldplay_env.evaluate.metrics import moved, visible
from worldplay_env.worlds.base import Start, World
from worldplay_env.worlds.scene.build import build, stack
from worldplay_env.worlds.scene.render import Renderer
from worldplay_env.worlds.scene.walk import images_of

_FINER = 2


class Truth:
    """A scene, rendered at a world's size.

    Args:
        seed: The scene's.
        size: Height and width of a frame.
        device: Where pictures are rendered and kept.
        layout: The world's: how many images a latent frame has.
    """

    def __init__(self, seed: int, size: tuple[int, int], device: torch.device, layout: ChunkLayout = LAYOUT) -> None:
        self._layout = layout
        self.scene = build(seed)
        scenes = stack([self.scene], device)
        self._renderer = Renderer(scenes, size)
        self._intrinsics = torch.tensor(DEFAULT_INTRINSICS)
        finer = Renderer(scenes, (size[0] * _FINER, size[1] * _FINER))
        self._start_depth = finer.depth(*self._views(self.scene.start[None]))[0]  # finer: sharper silhouettes
        self.picture = self.frames(self.scene.start[None])[0]
        """uint8 [H, W, 3] the starting picture, the only true one that a world is given."""

    @classmethod
    def beside(cls, world: World, seed: int) -> Self:
        """Return the scene of a seed at a world's size, on its device."""
        return cls(seed, world.image_size, world.device, world.layout)

    def begin(self, world: World) -> Any:
        """Begin a rollout of a world in this scene: from its starting picture and caption, with its seed."""
        prompt = self.scene.caption if world.uses_picture else f"scene {self.scene.seed}"
        return world.start(Start(image=self.picture.cpu().numpy(), prompt=prompt), self.scene.seed)

    def frames(self, cameras: np.ndarray) -> Tensor:
        """Render cameras [F, 4, 4] in the scene's coordinates: uint8 [F, H, W, 3]."""
        return self._renderer.frames(*self._views(cameras))

    def film(self, poses: np.ndarray) -> Tensor:
        """Render the images along poses [N, 4, 4], one a latent frame, of a rollout's begin: uint8 [F, H, W, 3]."""
        return self.frames(images_of(poses, self._layout))

    def visible(self, poses: np.ndarray) -> Tensor:
        """Return which pixels of the same images show what the starting picture shows: bool [F, H, W]."""
        depth, relative = self._from_start(poses)
        return visible(depth, relative, self._start_depth, DEFAULT_INTRINSICS)

    def moved(self, poses: np.ndarray) -> Tensor:
        """Return the same images as far as the starting picture tells them: uint8 [F, H, W, 3], see `moved`."""
        return moved(self.picture, *self._from_start(poses), DEFAULT_INTRINSICS)

    def _from_start(self, poses: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the images' depth [F, H, W], and the matrices from their cameras to the start's [F, 4, 4]."""
        cameras = images_of(poses, self._layout)
        depth = self._renderer.depth(*self._views(cameras))
        return depth, torch.from_numpy(np.linalg.inv(self.scene.start) @ cameras).float().to(depth.device)

    def _views(self, cameras: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        return torch.zeros(len(cameras), dtype=torch.int64), torch.from_numpy(cameras), self._intrinsics
