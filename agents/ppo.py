"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) over many worlds at once.

The agent sees the current picture and the goal picture, or both as latents, and never a pose. It learns from a
`WorldPlayVectorEnv` with `output="torch"`: observations stay on the device, and only the actions pass through the
host. `ppo_network.py` has the network, `ppo_losses.py` the mathematics.

    python agents/ppo.py --world testcard --num-envs 16
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from worldplay_env.spinning import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before anything imports torch

import gymnasium as gym
import numpy as np
import torch
import tyro
from torch import Tensor, nn

from common import WALK_AND_TURN, AnyEnv, single_spaces
from ppo_losses import (
    RolloutBuffer,
    clipped_policy_loss,
    explained_variance,
    generalized_advantages,
    policy_change,
)
from ppo_network import ActorCritic, network_inputs
from worldplay_env.media.files import replacing

BUDGET = 16_384
"""Steps of all worlds together; enough to reach most goals of `WorldPlay/Reach-v0` in the embedded world."""


@dataclass(frozen=True)
class Settings:
    """PPO's hyperparameters, under CleanRL's names."""

    labels: tuple[int, ...] = WALK_AND_TURN
    """The env's actions that the policy chooses among."""
    num_steps: int = 8
    """Steps of every world between two updates."""
    update_epochs: int = 4
    """Passes of an update over those steps."""
    num_minibatches: int = 4
    """Gradient steps of an epoch."""
    learning_rate: float = 1e-3
    """Of Adam; it falls linearly, to zero at the end of the budget of steps."""
    gamma: float = 0.95
    """Discount of a step."""
    gae_lambda: float = 0.9
    """Lambda of the generalised advantage estimate."""
    clip_coef: float = 0.2
    """Epsilon of the clipped policy loss."""
    ent_coef: float = 0.01
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss, half the squared error."""
    max_grad_norm: float = 0.5
    """Largest norm of a gradient."""
    width: int = 32
    """Channels of the features of a picture."""
    checkpoint_every: int = 20
    """Updates between two checkpoints. Episodes begin anew at each, so that a resumed run equals one that was not
    interrupted."""


OLD_NAMES = {
    "horizon": "num_steps",
    "epochs": "update_epochs",
    "minibatches": "num_minibatches",
    "discount": "gamma",
    "trace": "gae_lambda",
    "clip": "clip_coef",
    "entropy": "ent_coef",
    "value": "vf_coef",
    "gradient": "max_grad_norm",
}
"""Fields of `Settings` in checkpoints and flags of version 0.1, and their names here."""
DEFAULT = Settings()


class PPOAgent:
    """A policy network, and PPO to train it.

    Args:
        env: An env or vector env with `task="reach"`, one action a chunk, and pictures with `channel_first=True` or
            latents. To learn in, a vector env with `autoreset_mode="same_step"`, and best with `output="torch"`.
        settings: PPO's hyperparameters.
        seed: Of the network's first weights and of all random draws; the global generators stay untouched.
        device: Of the network; by default the world's.

    Raises:
        ValueError: An env without a goal, with channels last, or with an action for each latent frame.
    """

    def __init__(
        self,
        env: AnyEnv,
        settings: Settings = DEFAULT,
        seed: int = 0,
        device: str | torch.device | None = None,
    ) -> None:
        inner: Any = env.unwrapped
        self.env: Any = env
        self.settings, self.seed = settings, seed
        self.batched = isinstance(inner, gym.vector.VectorEnv)
        actions, observations = single_spaces(env)
        if not isinstance(actions, gym.spaces.Discrete):
            raise ValueError(f"the agent takes one action a chunk, got {actions}")
        channels, size = _goal_shape(observations)
        self.device = torch.device(inner.world.device if device is None else device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = ActorCritic(channels, size, len(settings.labels), settings.width)
        self.network = network.to(self.device)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate, eps=1e-5)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.labels = np.array(settings.labels)
        self.updates = 0
        self.history: list[dict[str, float]] = []
        """The metrics of every update so far: steps, success, reward, entropy, kl, ..."""

    def act(self, obs: Any, info: dict[str, Any]) -> Any:
        """Return an action sampled from the policy; of a vector env's observations one each, int64 [N]."""
        actions, _, _ = self._sample(*self._inputs(obs))
        labels = self.labels[actions.cpu().numpy()]
        return labels if self.batched else int(labels[0])

    # ---- learning

    def learn(
        self,
        steps: int,
        *,
        minutes: float = float("inf"),
        folder: Path | None = None,
        events: bool = True,
        report: Callable[[dict[str, float]], None] | None = None,
    ) -> None:
        """Train until the step budget is spent or time is up.

        Args:
            steps: The budget, of all worlds together, steps before a resumption included; the learning rate falls
                over it.
            minutes: Of wall clock, for this call.
            folder: For the checkpoint, `ppo.pt`, and TensorBoard's events.
            events: Whether to write those; it needs the package `tensorboard`.
            report: Called with the metrics of every update.

        Raises:
            ValueError: The env is no vector env with `autoreset_mode="same_step"`.
        """
        if not self.batched or self.env.metadata["autoreset_mode"] is not gym.vector.AutoresetMode.SAME_STEP:
            raise ValueError('learning takes a vector env with autoreset_mode="same_step": make it with that')
        began, batch = time.perf_counter(), self.settings.num_steps * self.env.num_envs
        total = -(-steps // batch)
        observation: Any = None
        with nullcontext() if folder is None or not events else _tensorboard(folder) as writer:
            while self.updates < total and time.perf_counter() - began < 60 * minutes:
                if observation is None or self.updates % self.settings.checkpoint_every == 0:
                    if folder is not None:
                        self.save(folder / "ppo.pt")
                    observation = self._reset()
                self.optimizer.param_groups[0]["lr"] = self.settings.learning_rate * (1 - self.updates / total)
                before = time.perf_counter()
                buffer, observation, metrics = self.collect(observation)
                metrics |= self.update(buffer)
                metrics["learning_rate"] = self.optimizer.param_groups[0]["lr"]
                metrics["steps_per_second"] = batch / (time.perf_counter() - before)
                self.updates += 1
                self.history.append({"steps": self.updates * batch, **metrics})
                if writer is not None:
                    for name, value in metrics.items():
                        writer.add_scalar(f"ppo/{name}", value, self.history[-1]["steps"])
                if report is not None:
                    report(self.history[-1])
        if folder is not None:
            self.save(folder / "ppo.pt")

    def _reset(self) -> Any:
        """Begin new episodes, and seed all draws, by the agent's seed and the number of updates."""
        own, *seeds = np.random.SeedSequence([self.seed, self.updates]).generate_state(1 + self.env.num_envs).tolist()
        self.generator.manual_seed(own)  # a generator's saved state would fit one kind of device only
        return self.env.reset(seed=seeds)[0]

    def collect(self, observation: Any) -> tuple[RolloutBuffer, Any, dict[str, float]]:
        """Act for `num_steps` steps; return them, the observation after the last, and metrics."""
        rows: list[tuple[Tensor, ...]] = []
        env_rewards, successes, lengths = [], [], []
        for _ in range(self.settings.num_steps):
            current, goal = self._inputs(observation)
            actions, log_probs, values = self._sample(current, goal)
            observation, *outcome, info = self.env.step(self.labels[actions.cpu().numpy()])
            rewards, terminations, truncations = (torch.as_tensor(part).to(self.device) for part in outcome)
            env_rewards.append(rewards.float())
            successes.append(terminations)
            if "final_obs" in info:
                lengths += info["final_info"]["step"][info["_final_obs"]].tolist()
                rewards = rewards.float() + self._truncation_bonus(info, truncations & ~terminations)
            dones = terminations | truncations
            rows.append((current, goal, actions, log_probs, values, rewards.float(), dones))
        observations, goals, actions, log_probs, values, rewards, dones = map(torch.stack, zip(*rows, strict=True))
        with torch.no_grad():
            _, next_value = self.network(*self._inputs(observation))
        advantages = generalized_advantages(
            rewards, values, dones, next_value, self.settings.gamma, self.settings.gae_lambda
        )
        episodes = float(dones.sum())
        metrics = {
            "success": float(torch.stack(successes).sum()) / max(episodes, 1),
            "episodes": episodes,
            "reward": float(torch.stack(env_rewards).sum()) / max(episodes, 1),
            "episode_length": sum(lengths) / max(len(lengths), 1),
            "explained_variance": explained_variance(values, values + advantages),
        }
        buffer = RolloutBuffer(observations, goals, actions, log_probs, values, rewards, dones, advantages)
        return buffer, observation, metrics

    def _truncation_bonus(self, info: dict[str, Any], truncated: Tensor) -> Tensor:
        """Return the discounted values of the states where a time limit ended episodes: float32 [N], 0 elsewhere."""
        rows = np.flatnonzero(info["_final_obs"])
        finals = [info["final_obs"][row] for row in rows]
        last = {name: torch.stack([torch.as_tensor(final[name]) for final in finals]) for name in finals[0]}
        with torch.no_grad():
            _, values = self.network(*self._inputs(last))
        bonus = torch.zeros(len(truncated), device=self.device)
        bonus[torch.from_numpy(rows).to(self.device)] = self.settings.gamma * values
        return bonus * truncated

    def update(self, buffer: RolloutBuffer) -> dict[str, float]:
        """Improve the network on a buffer; return the means of losses, KL, ... over the gradient steps."""
        settings, batch = self.settings, buffer.flatten()
        size = len(batch["actions"])
        statistics = []
        for _ in range(settings.update_epochs):
            order = torch.randperm(size, generator=self.generator, device=self.device)
            for indices in order.chunk(settings.num_minibatches):
                mini = {name: column[indices] for name, column in batch.items()}
                logits, values = self.network(mini["observations"], mini["goals"])
                all_log_probs = logits.log_softmax(1)
                log_prob = all_log_probs.gather(1, mini["actions"][:, None]).squeeze(1)
                advantage = mini["advantages"]
                advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
                policy_loss = clipped_policy_loss(log_prob, mini["log_probs"], advantage, settings.clip_coef)
                value_loss = (values - mini["returns"]).square().mean() / 2
                entropy = -(all_log_probs.exp() * all_log_probs).sum(1).mean()
                kl, clipped = policy_change(log_prob.detach(), mini["log_probs"], settings.clip_coef)
                self.optimizer.zero_grad()
                (policy_loss + settings.vf_coef * value_loss - settings.ent_coef * entropy).backward()
                nn.utils.clip_grad_norm_(self.network.parameters(), settings.max_grad_norm)
                self.optimizer.step()
                statistics.append(torch.stack([policy_loss, value_loss, entropy, kl, clipped]).detach())
        means = torch.stack(statistics).mean(0).tolist()
        return dict(zip(("policy_loss", "value_loss", "entropy", "kl", "clip_fraction"), means, strict=True))

    def _sample(self, current: Tensor, goal: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sample an action each: indices of `labels`, their log probabilities, and the state values, [N]."""
        with torch.no_grad():
            logits, values = self.network(current, goal)
            log_probs = logits.log_softmax(1)
            actions = torch.multinomial(log_probs.exp(), 1, generator=self.generator)
        return actions.squeeze(1), log_probs.gather(1, actions).squeeze(1), values

    def _inputs(self, obs: Any) -> tuple[Tensor, Tensor]:
        """Return the network's two inputs, [N, channels, rows, columns] on the device."""
        observation, goal = (torch.as_tensor(obs[name]).to(self.device) for name in ("observation", "goal"))
        return network_inputs(observation, goal) if self.batched else network_inputs(observation[None], goal[None])

    # ---- checkpoints

    def save(self, path: Path) -> None:
        """Write a checkpoint; a file of that name is replaced when the new one is complete."""
        state = {
            "settings": asdict(self.settings),
            "seed": self.seed,
            "network": self.network.state_dict(),
            "optimiser": self.optimizer.state_dict(),
            "updates": self.updates,
            "history": self.history,
        }
        with replacing(path) as partial:
            torch.save(state, partial)

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint, on any device.

        Raises:
            ValueError: Its settings or its seed differ from the agent's.
        """
        state = _read_checkpoint(path)
        if (state["settings"], state["seed"]) != (self.settings, self.seed):
            raise ValueError(
                f"{path} was written with seed {state['seed']} and {state['settings']}, this agent has seed "
                f"{self.seed} and {self.settings}: give the same, or another folder"
            )
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimiser"])
        self.updates, self.history = state["updates"], state["history"]

    @classmethod
    def load(cls, path: Path, env: AnyEnv) -> Self:
        """Return the agent of a checkpoint, to act in any env with pictures of the same size."""
        state = _read_checkpoint(path)
        agent = cls(env, state["settings"], state["seed"])
        agent.restore(path)
        return agent


def _read_checkpoint(path: Path) -> dict[str, Any]:
    state = torch.load(path, map_location="cpu", weights_only=True)
    named = {OLD_NAMES.get(name, name): value for name, value in state["settings"].items()}
    return {**state, "settings": Settings(**named)}


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            f"TensorBoard's events need the package tensorboard ({error}): install it, or leave them out by "
            "events=False or --no-tensorboard"
        ) from error
    return SummaryWriter(str(folder))


def _goal_shape(space: gym.Space[Any]) -> tuple[int, tuple[int, int]]:
    """Return the channels of an observation's goal, and its rows and columns."""
    if not isinstance(space, gym.spaces.Dict) or "goal" not in space.spaces:
        raise ValueError(f'the agent is told where to go by a goal: make the env with task="reach", got {space}')
    shape = space["goal"].shape
    assert shape is not None
    if space["goal"].dtype == np.uint8 and shape[0] != 3:
        raise ValueError(f"pictures must be [3, height, width], got {shape}: make the env with channel_first=True")
    return shape[0], (shape[-2], shape[-1])


@dataclass(frozen=True)
class Args:
    """Train PPO to reach the view of a goal picture."""

    world: str = "tiny"
    """A world's name, as in `worldplay_env.load`, or a folder of weights."""
    size: tuple[int, int] = (48, 80)
    """Height and width of the agent's pictures."""
    steps: int = BUDGET
    """The budget, of all worlds together."""
    minutes: float = float("inf")
    """Time limit."""
    num_envs: int = 64
    """Worlds in one batch."""
    seed: int = 0
    """Of the agent and of its episodes."""
    device: str | None = None
    """Of the world and the network; by default the world's own choice."""
    folder: Path = Path("outputs/ppo")
    """For TensorBoard's events and the checkpoint; training resumes from a checkpoint there."""
    tensorboard: bool = True
    """Whether to write events; it needs the package of that name."""


def main() -> None:
    """Train, and print the metrics of every update."""
    args = tyro.cli(Args, description=Args.__doc__)
    env = gym.make_vec(
        "WorldPlay/Reach-v0",
        num_envs=args.num_envs,
        world=args.world,
        size=args.size,
        device=args.device,
        channel_first=True,
        output="torch",
        autoreset_mode="same_step",
    )
    agent = PPOAgent(env, seed=args.seed)
    if (args.folder / "ppo.pt").is_file():
        agent.restore(args.folder / "ppo.pt")
    agent.learn(args.steps, minutes=args.minutes, folder=args.folder, events=args.tensorboard, report=_print)
    env.close()


def _print(metrics: dict[str, float]) -> None:
    print(", ".join(f"{name} {value:.4g}" for name, value in metrics.items()), flush=True)


if __name__ == "__main__":
    main()
