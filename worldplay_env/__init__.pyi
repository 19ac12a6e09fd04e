"""The public names, each with its module: what type checkers read, and what the package imports them by."""

from .action_space import (
    InvalidAction as InvalidAction,
)
from .control.actions import (
    ACTION_TABLE as ACTION_TABLE,
    KEYS as KEYS,
    NUM_ACTIONS as NUM_ACTIONS,
    action_label as action_label,
    action_name as action_name,
    keys_of as keys_of,
    label_of_keys as label_of_keys,
    split_label as split_label,
)
from .control.camera import (
    Motion as Motion,
)
from .control.trajectory import (
    Trajectory as Trajectory,
    load_trajectory as load_trajectory,
)
from .env import (
    Snapshot as Snapshot,
    WorldPlayEnv as WorldPlayEnv,
)
from .image import (
    ImageError as ImageError,
    read_image as read_image,
)
from .reach import (
    Reach as Reach,
)
from .rewards import (
    Goal as Goal,
    RewardError as RewardError,
    Transition as Transition,
    cover_ground as cover_ground,
    reach_pose as reach_pose,
    reach_view as reach_view,
)
from .rollout import (
    roll_out as roll_out,
)
from .starts import (
    choose_start as choose_start,
)
from .vector import (
    VectorSnapshot as VectorSnapshot,
    WorldPlayVectorEnv as WorldPlayVectorEnv,
)
from .video import (
    FilmWriter as FilmWriter,
    save_picture as save_picture,
    tile as tile,
)
from .world import (
    CHUNK_LATENTS as CHUNK_LATENTS,
    Chunk as Chunk,
    Control as Control,
    Rollout as Rollout,
    Start as Start,
    World as World,
    WorldError as WorldError,
    load as load,
)
from .wrappers import (
    FrameByFrame as FrameByFrame,
    RecordChunks as RecordChunks,
    RecordVectorChunks as RecordVectorChunks,
)

__version__: str
