"""The transformer of HY-WorldPlay, its sampler and its memory."""
