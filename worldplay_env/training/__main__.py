"""`python -m worldplay_env.training autoencoder | export`: what made the embedded world, stage by stage."""

from __future__ import annotations

import tyro

from worldplay_env.training.autoencoder import AutoencoderOptions
from worldplay_env.training.export import ExportOptions

STAGES = {"autoencoder": AutoencoderOptions, "export": ExportOptions}


def main(arguments: list[str] | None = None) -> None:
    """Run the stage that the command line asks for."""
    tyro.extras.subcommand_cli_from_dict(STAGES, args=arguments, description=__doc__).run()


if __name__ == "__main__":
    main()
