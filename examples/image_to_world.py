"""Walk into your own picture along a path: the world itself, without the environment around it.

python examples/image_to_world.py holiday.jpg --prompt "a beach at noon" --pose "w-12, left-6, w-6"
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from worldplay_env.spinning import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before anything imports torch

import tyro

import worldplay_env


@dataclass(frozen=True)
class Args:
    """Make a film that starts from a picture and follows a path."""

    image: Annotated[str | None, tyro.conf.Positional] = None
    """A PNG, JPEG, WebP, BMP or GIF of any size, or the name of a bundled picture such as "snow"; by default one of
    these."""
    prompt: str | None = None
    """What the world looks like."""
    pose: str = "w-7, right-8"
    """A pose string, or the path of a trajectory .json."""
    world: str = "tiny"
    """"tiny", "wan-5b", "scene", "testcard", or a folder of weights."""
    accept_license: bool = False
    """Agree to the licence of weights that have to be downloaded."""
    out: Path = Path("outputs/image_to_world.mp4")
    """The film to write."""


def main() -> None:
    """Make the film."""
    args = tyro.cli(Args, description=Args.__doc__)
    trajectory = worldplay_env.load_trajectory(args.pose)
    world = worldplay_env.load(args.world, accept_license=args.accept_license)
    start = worldplay_env.choose_start(args.image, args.prompt, world)
    with worldplay_env.FilmWriter(args.out, world.fps) as film:
        for chunk in worldplay_env.roll_out(world, start, trajectory, seed=0):
            assert chunk.frames is not None
            film.write(chunk.frames.cpu().numpy())  # as they come: the film never is in memory as a whole
            print(f"{film.frames} frames")
    print(args.out)


if __name__ == "__main__":
    main()
