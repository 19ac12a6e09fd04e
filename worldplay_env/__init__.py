"""A Gymnasium environment around a streaming video world model (HY-WorldPlay WAN-5B).

Importing the package registers the environments and little else: torch comes in when a world is made. Each
public name is listed in `__init__.pyi`, with the module that it is imported from when it is first used.

    import gymnasium
    import worldplay_env

    env = gymnasium.make("WorldPlay/Tiny-v0")
"""

import gymnasium
import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

__version__ = "0.1.0"

_ENV, _VECTOR_ENV = "worldplay_env.envs.env:WorldPlayEnv", "worldplay_env.envs.vector:WorldPlayVectorEnv"
_WORLDS = {"Tiny": "tiny", "Wan5B": "wan-5b", "ABot5B": "abot-5b", "Testcard": "testcard", "Scene": "scene"}
for _id, _world in _WORLDS.items():
    gymnasium.register(
        id=f"WorldPlay/{_id}-v0",
        entry_point=_ENV,
        vector_entry_point=_VECTOR_ENV,
        max_episode_steps=60,
        kwargs={"world": _world},
    )
gymnasium.register(
    id="WorldPlay/Reach-v0",
    entry_point=_ENV,
    vector_entry_point=_VECTOR_ENV,
    max_episode_steps=12,  # three times as many as the farthest goal is away
    kwargs={"world": "tiny", "task": "reach", "observation": "last"},
)
gymnasium.register(
    id="WorldPlay/Collect-v0",
    entry_point=_ENV,
    vector_entry_point=_VECTOR_ENV,
    max_episode_steps=18,  # three times the walk that the cells are drawn from
    kwargs={"world": "scene", "task": "collect", "observation": "last"},
)
