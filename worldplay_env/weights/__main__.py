"""`python -m worldplay_env.weights fetch | convert`: have weights ready before they are wanted.

A converted file goes into a folder of weights, as the README says, under the name that its network has there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from worldplay_env.cli import fail

PROGRAM = "python -m worldplay_env.weights"


@dataclass(frozen=True)
class Fetch:
    """Download a world's missing files, check all of them and print their folder."""

    world: Annotated[str, tyro.conf.Positional] = "wan-5b"
    """"wan-5b" or "abot-5b"."""
    revision: str | None = None
    """The hub's commit, tag or branch of the transformer; by default the commit that this version was written for."""
    accept_license: bool = False
    """Accept the licence of the weights of "wan-5b"; the error without it names the licence."""

    def run(self) -> None:
        """Fetch the files and print their places."""
        from worldplay_env.weights.hub import resolve

        files = resolve(self.world, self.revision, self.accept_license)
        print(f"transformer   {files.transformer}")
        print(f"autoencoder   {files.autoencoder}")
        print(f"text encoder  {files.text_encoder}")
        print(f"tokenizer     {files.tokenizer or 'none: it reads bytes'}")


@dataclass(frozen=True)
class Convert:
    """Write a checkpoint of a known layout as one safetensors file that is loaded as it is.

    Known are: diffusers' and Wan's own names, ComfyUI's prefix, prefixes of training wrappers, numbers of 8 bits with
    scales or without, pickles, shards. All tensors of the network must be there, and no others.
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="IN")]
    """A file, an index of shards, or a folder with one of these."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """The .safetensors file to write."""
    world: str = "wan-5b"
    """The world whose network it is: a name, or a folder of weights."""
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """Of the tensors; by default each one's own, and bfloat16 for numbers of 8 bits."""

    def run(self) -> None:
        """Write the file and print its contents."""
        import torch

        from worldplay_env.weights.convert import convert

        done = convert(self.source, self.out, self.world, None if self.dtype is None else getattr(torch, self.dtype))
        print(f"{self.source}: the {done.network} of {self.world}, taken for: {done.layout}")
        print(f"{self.out}: {done.tensors} tensors, {done.size / 1e9:.2f} GB")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code: 0, or 2 for wrong arguments."""
    commands = {"fetch": Fetch, "convert": Convert}
    chosen = tyro.extras.subcommand_cli_from_dict(
        commands,  # type: ignore[arg-type]
        prog=PROGRAM,
        description=__doc__,
        args=arguments,
    )
    try:
        chosen.run()
    except (ValueError, OSError, RuntimeError) as error:
        return fail(error, 2)
    return 0


if __name__ == "__main__":
    sys.exit(main())
