"""A trajectory to a film: `python -m worldplay_env.rollout`.

Writes an .mp4, a contact sheet (.png) and what made them (.json): settings, timings, versions.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from worldplay_env.spinning import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before anything imports torch

import tyro
from tqdm import tqdm

from worldplay_env.cli import WorldArgs, fail, in_words
from worldplay_env.control.trajectory import Trajectory, load_trajectory
from worldplay_env.envs.starts import choose_start, read_references, unused_prompt
from worldplay_env.media.contact_sheet import ContactSheet
from worldplay_env.media.files import write_json
from worldplay_env.media.video import FilmError, FilmWriter, Resample
from worldplay_env.provenance import load_average, versions, world_facts
from worldplay_env.worlds.base import Chunk, ChunkLayout, Control, Rollout, Start, World, WorldError
from worldplay_env.worlds.follow import path_controls
from worldplay_env.worlds.registry import describe, load, resolve
from worldplay_env.worlds.transfer import fetch


@dataclass(frozen=True)
class Args(WorldArgs):
    """Roll a world out along a camera path, and write the film, a contact sheet and a JSON record."""

    image: str | None = None
    """The picture to start from: the path of one, or the name of a bundled one (courtyard, room, street, snow, dusk,
    night); "none" starts from the prompt alone. By default the courtyard."""
    prompt: str | None = None
    """What the world looks like. By default the bundled picture's own prompt; empty for a picture of yours."""
    references: Path | None = None
    """Pictures of the character of "abot-5b": a folder of head.png, left.png, right.png, front.png and back.png."""
    pose: str = "w-8, right-8, w-8, left-7"
    """The camera's path: a pose string (w s a d up down left right, and for how many latent frames), or the path of a
    trajectory .json. Any length: one latent frame is a quarter of a second."""
    seed: int = 0
    """Of the rollout's noise; with the same settings, the same film."""
    out: Path | None = None
    """The film to write, an .mp4, .gif or .webp; the sheet and the record go beside it. By default
    outputs/NAME-OF-THE-WORLD.mp4."""
    scale: int | None = None
    """Pixels of the film for each of the world's, down and across. By default 4 for a world of under 256 rows, else
    1."""
    resample: Resample = "lanczos"
    """How the film is enlarged: lanczos is smooth, nearest shows the world's own pixels as squares."""
    fps: float | None = None
    """Frames per second of playback. By default the world's, 16."""


def chunk_controls(trajectory: Trajectory, latents: int) -> list[Control]:
    """Split a trajectory into the cameras of its chunks of so many latent frames (see `path_controls`)."""
    return path_controls(trajectory.poses, trajectory.labels, latents, trajectory.intrinsics)


def frame_count(trajectory: Trajectory, layout: ChunkLayout) -> int:
    """Return the number of images of a trajectory's film: the start's and those of every motion."""
    return layout.images_by_latent(0)[0] + layout.images * (len(trajectory) - 1)


def roll_out(world: World, start: Start, trajectory: Trajectory, seed: int) -> Iterator[Chunk]:
    """Begin a rollout and return the chunks along a trajectory, each made when it is asked for.

    Args:
        world: Makes the chunks.
        start: Picture and prompt; the trajectory's first pose takes the place of its own.
        trajectory: Of any length. Where it ends inside a chunk, the chunk is completed by standing still, and its
            surplus frames are cut.
        seed: Of the rollout's noise.

    Returns:
        Chunks whose `frames` are the film: uint8 [frames, height, width, 3], `frame_count(trajectory)` in all.

    Raises:
        WorldError: While iterating: the world could not make a chunk.
    """
    rollout = world.start(replace(start, pose=trajectory.poses[0]), seed)
    return _follow(
        world, rollout, chunk_controls(trajectory, world.layout.latents), frame_count(trajectory, world.layout)
    )


def _follow(world: World, rollout: Rollout, controls: list[Control], frames_left: int) -> Iterator[Chunk]:
    for control in controls:
        [chunk] = world.step([rollout], [control])
        assert chunk.frames is not None
        frames = chunk.frames[:frames_left]
        frames_left -= len(frames)
        yield replace(chunk, frames=frames)


def film_path(out: Path | None, world: str) -> Path:
    """Return where the film goes: `out`, with .mp4 behind it if it has no suffix, or the default for the world."""
    if out is None:
        return Path("outputs") / f"{Path(resolve(world)).name}.mp4"
    return out if out.suffix else out.with_suffix(".mp4")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code: 0, 2 for wrong arguments, 1 for other errors, 130 for Ctrl-C."""
    args = tyro.cli(Args, prog="python -m worldplay_env.rollout", args=arguments)
    try:
        if args.seed < 0:
            raise ValueError(f"--seed is a whole number of 0 or more, got {args.seed}")
        trajectory = load_trajectory(args.pose)
        if len(trajectory) < 2:
            raise ValueError(f"--pose {args.pose!r} names no motion: there is nothing to film")
        spec = describe(args.world)
        start = choose_start(args.image, args.prompt, spec)
        start = replace(start, references=read_references(args.references, spec))
        if note := unused_prompt(spec, args.prompt):
            print(f"note: {note}", file=sys.stderr)
        fps = spec.fps if args.fps is None else args.fps
        path = film_path(args.out, args.world)
        for beside in (path.with_suffix(".png"), path.with_suffix(".json")):
            if beside.is_dir():
                raise IsADirectoryError(f"cannot write beside the film: {beside} is a folder")
        film = FilmWriter(path, fps, scale=args.scale, resample=args.resample)
    except (ValueError, OSError) as error:
        return fail(error, 2)
    try:
        with film:
            world = _load_world(args)
            sheet, chunks = _film(film, world, start, trajectory, args.seed)
        sheet.save(film.path.with_suffix(".png"))
        write_json(film.path.with_suffix(".json"), _record(args, film, world, start, trajectory, chunks))
    except _NoWorld as error:
        return fail(error, 2)
    except (WorldError, FilmError, OSError) as error:
        return fail(f"{in_words(error)}{_kept(film)}", 1)
    except KeyboardInterrupt:
        print(f"interrupted{_kept(film)}", file=sys.stderr)
        return 130
    for suffix, what in (
        (film.path.suffix, f"film, {film.frames / fps:.1f} s"),
        (".png", "contact sheet"),
        (".json", "record"),
    ):
        print(f"{film.path.with_suffix(suffix)}  ({what})")
    return 0


def _kept(film: FilmWriter) -> str:
    """Return where the frames of a film are that was not finished, if there are any."""
    return f"; the {film.frames} frames so far are in {film.partial}" if film.partial.exists() else ""


class _NoWorld(Exception):  # noqa: N818 (not an error of its own: the reason is its message)
    """The world that was asked for cannot be loaded."""


def _load_world(args: Args) -> World:
    try:
        return load(args.world, **args.load_options())
    except (ValueError, OSError, RuntimeError) as error:  # a name, a licence, a download, no memory
        raise _NoWorld(in_words(error)) from error


def _film(
    film: FilmWriter, world: World, start: Start, trajectory: Trajectory, seed: int
) -> tuple[ContactSheet, list[dict[str, object]]]:
    """Send every chunk's frames to the film as it is made; return the contact sheet and what is known of chunks."""
    sheet = ContactSheet(film.fps)
    facts: list[dict[str, object]] = []
    count = len(chunk_controls(trajectory, world.layout.latents))
    name = f"{world.name}, {world.weights} weights" if world.has_model else world.name
    with tqdm(total=count, desc=name, unit="chunk") as progress:
        began = time.perf_counter()
        for number, chunk in enumerate(roll_out(world, start, trajectory, seed)):
            assert chunk.frames is not None
            frames = fetch(chunk.frames)
            film.write(frames)
            sheet.add(frames)
            now = time.perf_counter()
            facts.append(
                {
                    "chunk": number,
                    "frames": len(frames),
                    "memory": chunk.memory,
                    "timings": chunk.timings,
                    "seconds": now - began,
                }
            )
            began = now
            progress.update()
    return sheet, facts


def _record(
    args: Args, film: FilmWriter, world: World, start: Start, trajectory: Trajectory, chunks: list[dict[str, object]]
) -> dict[str, object]:
    return {
        "settings": asdict(args),
        "world": world_facts(world),
        "start": start.name,
        "prompt": start.prompt,
        "latent_frames": len(trajectory),
        "frames": film.frames,
        "fps": film.fps,
        "scale": film.scale,
        "resample": film.resample if film.scale != 1 else None,
        "chunks": chunks,
        "load_average": load_average(),
        "versions": versions(world.device),
    }


if __name__ == "__main__":
    sys.exit(main())
