"""`python -m worldplay_env.training STAGE`: train the embedded world and measure it.

The stages in their order: autoencoder, transformer, distill, export. Each is resumed by the same command. What a
later stage reads of an earlier one is small (`training.checkpoint` says which files), so that they may run on
different machines. `report` holds the noted figures against each stage's gates, `diagnose` measures why they are off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from worldplay_env.spinning import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before anything imports torch

import tyro

from worldplay_env.training.autoencoder import AutoencoderOptions
from worldplay_env.training.diagnose import DiagnoseOptions, ReportOptions
from worldplay_env.training.distill import DistillOptions
from worldplay_env.training.export import ExportOptions
from worldplay_env.training.transformer import TransformerOptions

STAGES: dict[str, Callable[..., Any]] = {
    "autoencoder": AutoencoderOptions,
    "transformer": TransformerOptions,
    "distill": DistillOptions,
    "export": ExportOptions,
    "report": ReportOptions,
    "diagnose": DiagnoseOptions,
}


def main(arguments: list[str] | None = None) -> None:
    """Run the stage that the command line asks for."""
    prog = "python -m worldplay_env.training"
    tyro.extras.subcommand_cli_from_dict(STAGES, prog=prog, args=arguments, description=__doc__).run()


if __name__ == "__main__":
    main()
