"""A world as another package would write it: 3 latent frames and 12 images a chunk, faster cameras."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from worldplay_env.control.camera import MotionScale
from worldplay_env.control.layout import ChunkLayout
from worldplay_env.worlds.base import Chunk, Control, Decode, Start, World, check_prompt, check_seed, check_step

LAYOUT = ChunkLayout(latents=3, images=4, first_images=9, memory=6)
MOTION = MotionScale(units=0.5, degrees=10.0)
SIZE = (16, 24)


@dataclass(eq=False)
class StripesRollout:
    """One running world of stripes."""

    world: Stripes
    seed: int
    prompt: str
    pose: np.ndarray
    chunks: int = 0

    @property
    def picture(self) -> np.ndarray:
        return self.world.frames(self.pose[None])[0].numpy()

    @property
    def start_latent(self) -> torch.Tensor:
        return self.world.latents(self.pose[None], None)

    def set_prompt(self, prompt: str) -> None:
        self.prompt = check_prompt(prompt)

    def fork(self, seed: int | None = None) -> StripesRollout:
        return replace(self, seed=self.seed if seed is None else check_seed(seed))

    def save(self, path: str | Path) -> None:
        facts = {"seed": self.seed, "prompt": self.prompt, "pose": self.pose.tolist(), "chunks": self.chunks}
        Path(path).write_text(json.dumps(facts), encoding="utf-8")


class Stripes(World):
    """Stripes that slide as the camera moves and turns."""

    name = "stripes"
    image_size = SIZE
    fps = 12
    latent_shape = (2, LAYOUT.latents, 4, 6)
    layout = LAYOUT
    motion = MOTION
    uses_picture = False
    uses_prompt = False

    def __init__(self) -> None:
        self.device = torch.device("cpu")

    def start(self, start: Start, seed: int) -> StripesRollout:
        return StripesRollout(self, check_seed(seed), start.prompt, np.array(start.pose))

    def step(
        self,
        rollouts: Sequence[Any],
        controls: Sequence[Control],
        *,
        noise: torch.Tensor | None = None,
        decode: Decode = True,
    ) -> list[Chunk]:
        check_step(self, rollouts, controls, noise)
        chunks = []
        for row, (rollout, control) in enumerate(zip(rollouts, controls, strict=True)):
            generator = torch.Generator().manual_seed(hash((rollout.seed, rollout.chunks)) % 2**31)
            own = torch.randn(self.latent_shape, generator=generator)
            images = np.repeat(control.poses, LAYOUT.images_by_latent(rollout.chunks), axis=0)
            frames = self.frames(images[-1:] if decode == "newest" else images) if decode else None
            past = rollout.chunks * LAYOUT.latents
            memory = np.arange(max(0, past - LAYOUT.memory), past)
            latents = self.latents(control.poses, own if noise is None else noise[row])
            chunks.append(Chunk(frames, latents, control.poses, memory, {}))
        for rollout, control in zip(rollouts, controls, strict=True):
            rollout.pose, rollout.chunks = np.array(control.poses[-1]), rollout.chunks + 1
        return chunks

    def stream(self, rollout: Any, control: Control) -> Generator[torch.Tensor, None, Chunk]:
        fork = rollout.fork()
        [chunk] = self.step([fork], [control])
        assert chunk.frames is not None
        pieces = chunk.frames.split(LAYOUT.images_by_latent(rollout.chunks))
        yield from pieces[:-1]
        rollout.pose, rollout.chunks = fork.pose, fork.chunks
        yield pieces[-1]
        return chunk

    def load_rollout(self, path: str | Path) -> StripesRollout:
        facts = json.loads(Path(path).read_text(encoding="utf-8"))
        return StripesRollout(self, facts["seed"], facts["prompt"], np.array(facts["pose"]), facts["chunks"])

    def frames(self, poses: np.ndarray) -> torch.Tensor:
        """Return the view from each pose: uint8 [N, height, width, 3]."""
        columns = np.arange(SIZE[1]) * 10 + 100 * (poses[:, 2, 3] + poses[:, 0, 2])[:, None]
        shades = (columns % 256).astype(np.uint8)[:, None, :, None]
        return torch.from_numpy(np.broadcast_to(shades, (len(poses), *SIZE, 3)).copy())

    def latents(self, poses: np.ndarray, noise: torch.Tensor | None) -> torch.Tensor:
        """Return the cameras' distance and heading, with a little noise: float32 [2, N, 4, 6]."""
        values = torch.from_numpy(np.stack([poses[:, 2, 3], poses[:, 0, 2]]).astype(np.float32))
        clean = values[:, :, None, None].expand(-1, -1, *self.latent_shape[2:])
        return clean.clone() if noise is None else clean + 0.01 * noise


def make_stripes() -> Stripes:
    """Return the world, as a registered factory does."""
    return Stripes()
