"""`python -m worldplay_env.training autoencoder | transformer | distill | export`: what made the embedded world.

The stages in their order; each is resumed by the same command. What a later stage reads of an earlier one is small
(`training.checkpoint` says which files), so that they may run on different machines.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tyro

from worldplay_env.training.autoencoder import AutoencoderOptions
from worldplay_env.training.distill import DistillOptions
from worldplay_env.training.export import ExportOptions
from worldplay_env.training.transformer import TransformerOptions

STAGES: dict[str, Callable[..., Any]] = {
    "autoencoder": AutoencoderOptions,
    "transformer": TransformerOptions,
    "distill": DistillOptions,
    "export": ExportOptions,
}


def main(arguments: list[str] | None = None) -> None:
    """Run the stage that the command line asks for."""
    tyro.extras.subcommand_cli_from_dict(STAGES, args=arguments, description=__doc__).run()


if __name__ == "__main__":
    main()
