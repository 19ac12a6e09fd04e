"""A chunk played frame by frame, for whatever expects one picture a step, and films that keep every frame."""

from worldplay_env.envs.wrappers.frame_by_frame import FrameByFrame
from worldplay_env.envs.wrappers.record import RecordChunks, RecordVectorChunks

__all__ = ["FrameByFrame", "RecordChunks", "RecordVectorChunks"]
