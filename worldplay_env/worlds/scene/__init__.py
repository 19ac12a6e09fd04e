"""The true worlds: procedural scenes that can be rendered exactly from any camera.

`describe` and `load` are for `worldplay_env.worlds.registry`; torch comes in when a world is loaded.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from worldplay_env.control.actions import DEFAULT_SCALE
from worldplay_env.control.camera import MotionScale
from worldplay_env.control.layout import LAYOUT, ChunkLayout
from worldplay_env.worlds.base import WorldSpec

if TYPE_CHECKING:
    import torch

    from worldplay_env.worlds.scene.world import SceneWorld

SPEC = WorldSpec(image_size=(96, 160), latent_shape=None, fps=16, uses_picture=False, uses_prompt=False, name="scene")
"""The sizes by default: those of the embedded world model, which is judged by scenes."""

SCENE_PROMPT = re.compile(r"\s*scene\s+(\d{1,18})\s*")
"""A prompt that says by its seed which scene a rollout is in."""


def describe(name: str = "scene") -> WorldSpec:
    """Return the sizes of the world of scenes by default."""
    return SPEC


def load(
    name: str = "scene",
    *,
    device: str | torch.device | None = None,
    image_size: tuple[int, int] = SPEC.image_size,
    samples: int = 2,
    edition: int = 1,
    layout: ChunkLayout = LAYOUT,
    motion: MotionScale = DEFAULT_SCALE,
) -> SceneWorld:
    """Return the world of scenes; `worldplay_env.load("scene", ...)` calls this.

    Args:
        name: What it is called.
        device: Where frames are rendered; by default "cuda" where there is one, else "cpu".
        image_size: Height and width of a frame in pixels.
        samples: Rays along a pixel's side; 1 is four times as fast as 2 and has jagged edges.
        edition: How scenes are painted and lit; see `worldplay_env.worlds.scene.build.build`.
        layout: Latent frames and images of a chunk: those of a world to compare with.
        motion: How far an action moves and turns the camera in a latent frame.

    Raises:
        ValueError: An unknown device, sizes or samples that are not positive integers, no such edition.
    """
    from worldplay_env.worlds.scene.world import SceneWorld

    return SceneWorld(
        image_size=image_size, samples=samples, device=device, edition=edition, layout=layout, motion=motion
    )
