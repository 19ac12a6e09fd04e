"""The public names, each with its module: what type checkers read, and what the package imports them by."""

from .envs.action_space import (
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
from .control.held_keys import (
    HELD_KEYS as HELD_KEYS,
    vector_of_keys as vector_of_keys,
)
from .control.trajectory import (
    Trajectory as Trajectory,
    load_trajectory as load_trajectory,
)
from .envs.env import (
    Snapshot as Snapshot,
    WorldPlayEnv as WorldPlayEnv,
)
from .media.image import (
    ImageError as ImageError,
    read_image as read_image,
)
from .envs.tasks.base import (
    Task as Task,
)
from .envs.tasks.collect import (
    Collect as Collect,
)
from .envs.tasks.reach import (
    Reach as Reach,
)
from .envs.transition import (
    Goal as Goal,
    RewardError as RewardError,
    Transition as Transition,
)
from .envs.rewards import (
    cover_ground as cover_ground,
    reach_pose as reach_pose,
    reach_view as reach_view,
)
from .rollout import (
    roll_out as roll_out,
)
from .envs.starts import (
    choose_start as choose_start,
)
from .testing import (
    check_world as check_world,
)
from .envs.vector import (
    VectorSnapshot as VectorSnapshot,
    WorldPlayVectorEnv as WorldPlayVectorEnv,
)
from .media.video import (
    FilmWriter as FilmWriter,
)
from .media.contact_sheet import (
    save_picture as save_picture,
    tile as tile,
)
from .worlds.base import (
    CHUNK_LATENTS as CHUNK_LATENTS,
    Chunk as Chunk,
    Control as Control,
    Rollout as Rollout,
    Start as Start,
    World as World,
    WorldError as WorldError,
)
from .worlds.registry import (
    load as load,
    register_world as register_world,
)
from .envs.wrappers.frame_by_frame import (
    FrameByFrame as FrameByFrame,
)
from .envs.wrappers.record import (
    RecordChunks as RecordChunks,
    RecordVectorChunks as RecordVectorChunks,
)

__version__: str
