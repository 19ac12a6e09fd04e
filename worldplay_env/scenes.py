"""Start pictures from scenes: `python -m worldplay_env.scenes FOLDER`.

Makes the bundled ones as they are; other seeds and sizes make others, in a folder that `starts=` of an env takes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from worldplay_env.cli import fail
from worldplay_env.worlds.scene.starts import BUNDLED_SCENES, PICTURE_SIZE, write_starts


@dataclass(frozen=True)
class Args:
    """Render scenes from where rollouts begin in them, and write the pictures and their captions."""

    folder: Annotated[Path, tyro.conf.Positional]
    """Where the pictures and starts.json go."""
    seeds: tuple[int, ...] | None = None
    """Of the scenes; their pictures are named scene-SEED.png. By default those of the bundled pictures."""
    size: tuple[int, int] = PICTURE_SIZE
    """Height and width of the pictures."""
    edition: int = 1
    """How scenes are painted and lit: 1, as the bundled pictures are, or 2."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code: 0, or 2 for what was asked for."""
    args = tyro.cli(Args, prog="python -m worldplay_env.scenes", args=arguments)
    try:
        if min(args.size) < 1:
            raise ValueError(f"--size must be two positive whole numbers, got {args.size}")
        scenes = {f"scene-{seed}": seed for seed in args.seeds or ()} or BUNDLED_SCENES
        for path in write_starts(args.folder, scenes, args.size, args.edition):
            print(path)
    except (ValueError, OSError) as error:
        return fail(error, 2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
