"""A scene as a `World`: the true video, rendered, of the place that a camera moves through.

What sets it apart from a dream: it has no latents and no noise, a camera does not pass through walls, and it cannot
begin from any picture, since the picture is what its scene looks like.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
import torch

from worldplay_env.control.actions import DEFAULT_SCALE
from worldplay_env.control.camera import DEFAULT_INTRINSICS, MotionScale, check_poses, rebase, view_matrices
from worldplay_env.control.layout import LAYOUT, ChunkLayout
from worldplay_env.summary import rollout_line
from worldplay_env.worlds.base import (
    Chunk,
    Control,
    Decode,
    Start,
    World,
    WorldError,
    check_prompt,
    check_seed,
    check_step,
    check_streamed,
)
from worldplay_env.worlds.device import pick_device
from worldplay_env.worlds.rollout_file import check_arrays, read_rollout, write_rollout
from worldplay_env.worlds.scene import SCENE_PROMPT, SPEC
from worldplay_env.worlds.scene.build import EDITIONS, HELD_OUT_SEED, Scene, build, stack
from worldplay_env.worlds.scene.render import Renderer
from worldplay_env.worlds.scene.starts import BUNDLED_PROMPTS, BUNDLED_SCENES
from worldplay_env.worlds.scene.walk import between, follow, from_start, images_of

SEEDED_SCENES = 100_000
"""How many held-out scenes the seeds of rollouts are spread over."""


@dataclass(eq=False)
class SceneRollout:
    """One camera in one scene: see `worldplay_env.worlds.base.Rollout`.

    Attributes:
        world: What made it.
        scene: The place.
        seed: Of the rollout; it chose the scene, unless the prompt did, and nothing else depends on it.
        prompt: As given; `scene.caption` says what is there.
        picture: uint8 [height, width, 3], what the scene shows from its start, whatever picture was given.
        start_pose: float64 [4, 4] of the start, in the rollout's coordinates.
        poses: float64 [L, 4, 4], the true ones of the newest chunk, one a latent frame; at first the start's.
        blocked: bool [L], which motions of the newest chunk were stopped; such a one turns and does not move.
        chunks: Chunks made so far.
    """

    world: SceneWorld
    scene: Scene
    seed: int
    prompt: str
    picture: np.ndarray
    start_pose: np.ndarray
    poses: np.ndarray
    blocked: np.ndarray
    chunks: int = 0

    def __repr__(self) -> str:
        return rollout_line(self, f"scene {self.scene.seed}")

    @property
    def pose(self) -> np.ndarray:
        """Float64 [4, 4]: where the camera truly is, which is not where it was sent if something was in the way."""
        return self.poses[-1].copy()

    @property
    def start_latent(self) -> None:
        """None: scenes have no latents."""
        return

    def set_prompt(self, prompt: str) -> None:
        """Change the prompt; the scene stays as it is."""
        self.prompt = check_prompt(prompt)

    def fork(self, seed: int | None = None) -> Self:
        """Return a rollout that goes on as this one would; with another seed too, since a scene has no noise."""
        return replace(self, seed=self.seed if seed is None else check_seed(seed))

    def save(self, path: str | Path) -> None:
        """Write the rollout to a safetensors file that `SceneWorld.load_rollout` reads."""
        own = {"seed": self.seed, "scene": self.scene.seed, "chunks": self.chunks, "prompt": self.prompt}
        arrays = {name: getattr(self, name) for name in ("picture", "start_pose", "poses", "blocked")}
        write_rollout(path, {"world": "scene", "edition": self.scene.edition, **own}, arrays)


@dataclass(frozen=True)
class _Way:
    """Where a camera truly goes in a chunk.

    Attributes:
        poses: float64 [L, 4, 4], one a latent frame, in the rollout's coordinates.
        blocked: bool [L].
        cameras: float64 [F, 4, 4], one a frame, in the scene's coordinates.
        intrinsics: float64 [F, 3, 3].
    """

    poses: np.ndarray
    blocked: np.ndarray
    cameras: np.ndarray
    intrinsics: np.ndarray


class SceneWorld(World):
    """A world that renders procedural scenes.

    Which scene a rollout is in is said by its start's prompt, or else drawn with its seed from the held-out ones:

    - `"scene 900012"`: the scene of that seed.
    - The prompt of a bundled start picture: the scene that the picture shows, so that equal resets of this world and
      of the dream begin in the same place.
    - Anything else: scene `900000 + seed % 100000`.

    It begins where its scene does, and `rollout.picture` is what that looks like: a start's picture is passed over
    (`uses_picture` is False; environments and commands refuse any but the bundled pictures, whose scenes there are).

    Motions are those from pose to pose of a `Control`, the first from where the rollout is. Where something is in the
    way, a motion turns the camera and does not move it: `rollout.blocked` tells, `rollout.poses` are the true poses,
    and an env goes on from the last of them.

    Args:
        image_size: Height and width of a frame in pixels.
        samples: Rays along a pixel's side.
        device: Where frames are rendered; by default "cuda" where there is one, else "cpu".
        edition: How scenes are painted and lit: 1, or 2 (see `build`). The bundled pictures are of edition 1.
        layout: Latent frames and images of a chunk; a scene has no memory.
        motion: How far an action moves and turns the camera in a latent frame.
    """

    uses_picture = SPEC.uses_picture
    uses_prompt = SPEC.uses_prompt

    def __init__(
        self,
        image_size: tuple[int, int] = SPEC.image_size,
        samples: int = 2,
        device: str | torch.device | None = None,
        edition: int = 1,
        layout: ChunkLayout = LAYOUT,
        motion: MotionScale = DEFAULT_SCALE,
    ) -> None:
        if len(image_size) != 2 or not all(isinstance(side, int) and side > 0 for side in image_size):
            raise ValueError(f"image_size must be two positive integers (height, width), got {image_size!r}")
        if not isinstance(samples, int) or samples < 1:
            raise ValueError(f"samples must be a positive integer, got {samples!r}")
        if edition not in EDITIONS:
            raise ValueError(f"edition must be one of {EDITIONS}, got {edition!r}")
        self.name = "scene"
        self.image_size = (image_size[0], image_size[1])
        self.latent_shape = None
        self.fps = SPEC.fps
        self.samples = samples
        self.edition = edition
        self.layout = layout
        self.motion = motion
        self.device = pick_device(device)

    def start(self, start: Start, seed: int) -> SceneRollout:
        """Begin a rollout where a scene begins; see the class for which one."""
        seed = check_seed(seed)
        scene = build(self._scene_of(start.prompt, seed), self.edition)
        pose = np.array(start.pose, dtype=np.float64)
        [picture] = self._render([scene], [scene.start[None]], [DEFAULT_INTRINSICS[None]])
        return SceneRollout(
            world=self,
            scene=scene,
            seed=seed,
            prompt=start.prompt,
            picture=picture[0].cpu().numpy(),
            start_pose=pose,
            poses=np.repeat(pose[None], self.layout.latents, axis=0),
            blocked=np.zeros(self.layout.latents, dtype=bool),
        )

    def step(
        self,
        rollouts: Sequence[SceneRollout],
        controls: Sequence[Control],
        *,
        noise: torch.Tensor | None = None,
        decode: Decode = True,
    ) -> list[Chunk]:
        """Make one chunk for every rollout, all of them or none; see `World.step`. Noise changes nothing."""
        began = time.perf_counter()
        check_step(self, rollouts, controls, noise)
        ways = [_way(rollout, control) for rollout, control in zip(rollouts, controls, strict=True)]
        walked = time.perf_counter()
        frames: list[torch.Tensor | None] = [None] * len(ways)
        if decode and ways:
            scenes, shown = [rollout.scene for rollout in rollouts], slice(-1 if decode == "newest" else 0, None)
            cameras, intrinsics = [way.cameras[shown] for way in ways], [way.intrinsics[shown] for way in ways]
            frames[:] = self._render(scenes, cameras, intrinsics)
        for rollout, way in zip(rollouts, ways, strict=True):
            _commit(rollout, way)
        timings = {"walk": walked - began, "render": time.perf_counter() - walked}
        return [
            Chunk(video, None, way.poses.copy(), np.empty(0, dtype=np.int64), dict(timings))
            for video, way in zip(frames, ways, strict=True)
        ]

    def stream(self, rollout: SceneRollout, control: Control) -> Generator[torch.Tensor, None, Chunk]:
        """Make one chunk and yield its frames one latent frame at a time; see `World.stream`."""
        check_step(self, [rollout], [control])
        pieces, seconds, end = [], 0.0, 0
        made = rollout.chunks
        way = _way(rollout, control)
        for images in self.layout.images_by_latent(made):
            begin, end = end, end + images
            began = time.perf_counter()
            [piece] = self._render([rollout.scene], [way.cameras[begin:end]], [way.intrinsics[begin:end]])
            pieces.append(piece)
            seconds += time.perf_counter() - began
            if end == len(way.cameras):
                check_streamed(rollout, made)
                _commit(rollout, way)
            yield piece
        return Chunk(torch.cat(pieces), None, way.poses.copy(), np.empty(0, dtype=np.int64), {"render": seconds})

    def load_rollout(self, path: str | Path) -> SceneRollout:
        """Read a rollout that `SceneRollout.save` wrote.

        Raises:
            ValueError: The file holds no rollout in a scene of this size and edition.
        """
        metadata, arrays = read_rollout(path, "scene", self.image_size)
        check_arrays(
            path, arrays, {"picture": "uint8", "start_pose": "float64", "poses": "float64", "blocked": "bool"}
        )
        latents = self.layout.latents
        if arrays["poses"].shape != (latents, 4, 4) or arrays["blocked"].shape != (latents,):
            raise ValueError(f"{str(path)!r} holds poses of shape {arrays['poses'].shape}")
        check_poses(arrays["poses"])
        check_poses(arrays["start_pose"][None])
        if not metadata.get("scene", "").isdecimal():
            raise ValueError(f"{str(path)!r} is of no scene: {metadata.get('scene')!r}")
        edition = metadata.get("edition", "1")
        if edition != str(self.edition):
            raise ValueError(f"{str(path)!r} is of a scene of edition {edition}, this world's are of {self.edition}")
        return SceneRollout(
            world=self,
            scene=build(int(metadata["scene"]), self.edition),
            seed=int(metadata["seed"]),
            prompt=metadata["prompt"],
            chunks=int(metadata["chunks"]),
            **arrays,
        )

    def _scene_of(self, prompt: str, seed: int) -> int:
        """Return the seed of the scene that a rollout is in."""
        if named := SCENE_PROMPT.fullmatch(prompt):
            return int(named[1])
        bundled = {own: BUNDLED_SCENES[name] for name, own in BUNDLED_PROMPTS.items()}
        return bundled.get(prompt, HELD_OUT_SEED + seed % SEEDED_SCENES)

    def _render(
        self, scenes: Sequence[Scene], cameras: Sequence[np.ndarray], intrinsics: Sequence[np.ndarray]
    ) -> list[torch.Tensor]:
        """Render every scene from its own cameras [F, 4, 4]: a uint8 tensor [F, height, width, 3] for each."""
        lengths = [len(poses) for poses in cameras]
        which = torch.repeat_interleave(torch.tensor(lengths))
        try:
            renderer = Renderer(stack(scenes, self.device), self.image_size, samples=self.samples)
            frames = renderer.frames(
                which, torch.from_numpy(np.concatenate(cameras)), torch.from_numpy(np.concatenate(intrinsics))
            )
        except torch.OutOfMemoryError as error:
            raise WorldError(
                f"out of memory on {self.device}; no rollout was changed. Step fewer rollouts at once, or load the "
                f"world with fewer samples (now {self.samples})"
            ) from error
        return list(frames.split(lengths))


def _way(rollout: SceneRollout, control: Control) -> _Way:
    """Return where a chunk's cameras truly go; chunk 0 begins at the start, and has one motion less."""
    first, layout = rollout.chunks == 0, rollout.world.layout
    asked = np.concatenate([rollout.pose[None], control.poses[int(first) :]])  # [L or L + 1, 4, 4]
    steps = view_matrices(asked[:-1]) @ asked[1:]
    here = from_start(rollout.pose[None], rollout.start_pose, rollout.scene.start)
    [path], [blocked] = follow([rollout.scene], here, steps[None])
    # Until something is in the way the camera is where it was sent, to the last bit.
    stopped = np.concatenate([[False], np.logical_or.accumulate(blocked)])
    poses = np.where(stopped[:, None, None], rollout.start_pose @ rebase(path, rollout.scene.start), asked)
    latents = slice(-layout.latents, None)
    cameras = images_of(path, layout) if first else between(path, layout.images)[1:]
    return _Way(
        poses=poses[latents],
        blocked=np.concatenate([[False], blocked])[latents],
        cameras=cameras,
        intrinsics=np.repeat(control.intrinsics, layout.images_by_latent(rollout.chunks), axis=0),
    )


def _commit(rollout: SceneRollout, way: _Way) -> None:
    rollout.poses, rollout.blocked = way.poses, way.blocked
    rollout.chunks += 1
