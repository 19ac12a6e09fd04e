"""What made the embedded world: its data, its training stages, the export of its weights.

    python -m worldplay_env.training autoencoder --minutes 8
    python -m worldplay_env.training transformer --minutes 8
    python -m worldplay_env.training distill --minutes 8
    python -m worldplay_env.training export

Each stage takes as long as `--minutes` says, writes checkpoints to `runs/`, and goes on from them when it is called
again. A later stage needs of an earlier run its `index.json` and `averages-*.safetensors` alone. On a CPU smaller
batches are in order: `--clips 2` for the autoencoder, `--frames 48 --paths 256 --workers 2` for the other two.
"""
