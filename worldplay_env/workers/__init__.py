"""Work on many worlds, spread over processes and machines with Ray: evaluation, and the collection of experience.

Each worker (a Ray actor) holds one world, or one env, on its device and does one piece of work after another;
results come back as they are made. A piece of work depends on its own key alone, such as the seed of a scene or an
episode, so neither the number of workers nor who does what changes any result. Without Ray the same runs in one
process.
"""

from worldplay_env.workers.base import WorkerLost, Workers
from worldplay_env.workers.episodes import Agent, RecordedEpisode, collect, play_episode
from worldplay_env.workers.opening import open_workers

__all__ = ["Agent", "RecordedEpisode", "WorkerLost", "Workers", "collect", "open_workers", "play_episode"]
