"""Judging a world against the true scenes: paths, measures, and the table that `worldplay_env.evaluate` prints."""
