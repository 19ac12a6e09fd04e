"""Proximal policy optimisation (Schulman et al. 2017, arXiv 1707.06347) over many worlds at once, in one file.

The agent sees two pictures, what is there and what it should come to see (or the same as latents), and never a pose.
It learns from a `WorldPlayVectorEnv` with `output="torch"`, whose observations stay on the device from the world to
the network: nothing waits for the host but what the world itself needs there, the actions.

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

import worldplay_env
from worldplay_env.media.files import replacing

WALK_AND_TURN = tuple(
    worldplay_env.action_label(translation, rotation)
    for translation in (0, 1, 2)  # none, forward, back
    for rotation in (0, 1, 2)  # none, yaw right, yaw left
    if translation or rotation
)
"""Eight of the 81 labels: enough to come to any place on a floor and to face any way there."""
BUDGET = 16_384
"""Steps of all worlds together, after which the agent finds most goals of `WorldPlay/Reach-v0` in the dream."""
COARSEST = 6
"""Pictures are halved until their shorter side has no more cells than this."""


@dataclass(frozen=True)
class Settings:
    """What the agent may do, and how it learns."""

    labels: tuple[int, ...] = WALK_AND_TURN
    """The env's actions that the policy chooses among."""
    horizon: int = 8
    """Steps of every world between two updates."""
    epochs: int = 4
    """How often an update goes through them."""
    minibatches: int = 4
    """Gradient steps of an epoch."""
    learning_rate: float = 1e-3
    """Of Adam; it falls linearly, to zero at the end of the budget of steps."""
    discount: float = 0.95
    """Of a step's reward against the one before it (gamma)."""
    trace: float = 0.9
    """How far the advantages' estimate looks past the value's (lambda)."""
    clip: float = 0.2
    """How far an update may move an action's probability, as a part of it, before that gains no more."""
    entropy: float = 0.01
    """Weight of the policy's entropy."""
    value: float = 0.5
    """Weight of the value's squared error."""
    gradient: float = 0.5
    """The largest norm of a gradient."""
    width: int = 32
    """Channels of the features of a picture."""
    checkpoint_every: int = 20
    """Updates from one checkpoint to the next. Episodes begin anew at each, so that a run that is resumed from one
    goes on as it would have gone on."""


DEFAULT = Settings()


# ---- the network


class ActorCritic(nn.Module):
    """From what is there and what should be to the actions' logits and the situation's value.

    The same convolutions turn both into small grids of features. What counts is where the features of the one are
    found in the other: so the heads are given how alike all pairs of cells are, beside the features themselves.

    Args:
        channels: Of a picture or latent frame.
        size: Its rows and columns.
        actions: How many there are to choose among.
        width: Channels of the features.
    """

    def __init__(self, channels: int, size: tuple[int, int], actions: int, width: int = 32) -> None:
        super().__init__()
        rows, columns = size
        layers: list[nn.Module] = []
        while min(rows, columns) > COARSEST:
            layers += [_initialised(nn.Conv2d(channels, width, 3, stride=2, padding=1)), nn.ReLU()]
            channels, rows, columns = width, -(-rows // 2), -(-columns // 2)
        self.features = nn.Sequential(*layers, _initialised(nn.Conv2d(channels, width, 3, padding=1)))
        cells = rows * columns
        self.trunk = nn.Sequential(_initialised(nn.Linear(cells * (cells + 2 * width), 256)), nn.ReLU())
        self.actor = _initialised(nn.Linear(256, actions), gain=0.01)
        self.critic = _initialised(nn.Linear(256, 1), gain=1.0)

    def forward(self, observation: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [N, actions] and values [N] of pictures or latent frames [N, channels, rows, columns]."""
        grids = self.features(torch.cat([_scaled(observation), _scaled(goal)])).flatten(2)  # [2N, width, cells]
        here, there = grids.chunk(2)
        one, other = nn.functional.normalize(grids, dim=1).chunk(2)
        alike = torch.einsum("ncp, ncq -> npq", one, other)  # cosines, [N, cells, cells]
        hidden = self.trunk(torch.cat([alike.flatten(1), here.flatten(1), there.flatten(1)], dim=1))
        return self.actor(hidden), self.critic(hidden).squeeze(1)


def _initialised(layer: nn.Conv2d | nn.Linear, gain: float = 2**0.5) -> nn.Module:
    nn.init.orthogonal_(layer.weight, gain)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def _scaled(planes: Tensor) -> Tensor:
    return planes.float() / 127.5 - 1 if planes.dtype == torch.uint8 else planes


def newest(planes: Tensor, goal: Tensor) -> Tensor:
    """Return the newest picture [N, 3, H, W] or latent frame [N, C, h, w] of an observation shown beside its goal."""
    if goal.ndim == 5:  # latents [N, C, 4, h, w] beside [N, C, 1, h, w]
        return planes[:, :, -1]
    return planes[:, -1] if planes.ndim == 5 else planes  # a chunk of frames [N, F, 3, H, W], or the last of them


# ---- the mathematics


def advantages_of(
    rewards: Tensor, values: Tensor, ended: Tensor, last_value: Tensor, discount: float, trace: float
) -> Tensor:
    """Return generalised advantage estimates (Schulman et al. 2016, arXiv 1506.02438, equation 16), float [T, N].

    Args:
        rewards: [T, N], what step t brought.
        values: [T, N], of the situation before step t.
        ended: bool [T, N], whether step t was its episode's last: nothing after it counts.
        last_value: [N], of the situation after the last step.
        discount: Gamma.
        trace: Lambda.
    """
    advantages, following = torch.zeros_like(rewards), torch.zeros_like(last_value)
    next_value = last_value
    for step in reversed(range(len(rewards))):
        going = (~ended[step]).to(rewards.dtype)
        surprise = rewards[step] + discount * next_value * going - values[step]
        following = surprise + discount * trace * going * following
        advantages[step], next_value = following, values[step]
    return advantages


def clipped_loss(log_probability: Tensor, old: Tensor, advantage: Tensor, clip: float) -> Tensor:
    """Return what PPO minimises (arXiv 1707.06347, equation 7, negated), the mean over a batch [B].

    Args:
        log_probability: Of the actions that were taken, under the policy that learns.
        old: The same under the policy that took them.
        advantage: Of those actions.
        clip: Epsilon.
    """
    ratio = (log_probability - old).exp()
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip, 1 + clip) * advantage).mean()


def change_of(log_probability: Tensor, old: Tensor, clip: float) -> tuple[Tensor, Tensor]:
    """Return how far a policy has come from the one that acted: KL(old, new), and which part of [B] is clipped.

    The divergence is estimated from the actions that were taken, by the mean of (r - 1) - log r, r the ratio of their
    probabilities: unbiased and never negative (Schulman 2020, "Approximating KL divergence").
    """
    log_ratio = log_probability - old
    ratio = log_ratio.exp()
    return (ratio - 1 - log_ratio).mean(), ((ratio - 1).abs() > clip).float().mean()


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """Return which part of the returns' variance the values explain: 1 for all, 0 for none, less for worse; or 0."""
    variance = returns.var(correction=0)
    return float(1 - (returns - values).var(correction=0) / variance) if variance > 0 else 0.0


@dataclass
class Experience:
    """What N worlds went through in T steps; tensors [T, N, ...] on the device."""

    observations: Tensor
    goals: Tensor
    actions: Tensor
    log_probabilities: Tensor
    values: Tensor
    rewards: Tensor
    ended: Tensor
    advantages: Tensor

    def flat(self) -> dict[str, Tensor]:
        """Return all of it as one batch, [T * N, ...], with the returns that the value is to learn."""
        parts = {name: part.flatten(0, 1) for name, part in vars(self).items()}
        return parts | {"returns": parts["advantages"] + parts["values"]}


# ---- the agent


class PPOAgent:
    """Chooses actions by a network that it trains by PPO.

    Args:
        env: An env or vector env with `task="reach"`, one action a chunk, and pictures with `channel_first=True` or
            latents. To learn in, a vector env with `autoreset_mode="same_step"`, and best with `output="torch"`.
        settings: See there.
        seed: Of the network's first weights and of all that is drawn; nothing global is touched.
        device: Of the network; by default the world's.

    Raises:
        ValueError: An env that shows something else, or with an action for each latent frame.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any],
        settings: Settings = DEFAULT,
        seed: int = 0,
        device: str | torch.device | None = None,
    ) -> None:
        inner: Any = env.unwrapped
        self.env: Any = env
        self.settings, self.seed = settings, seed
        self.batched = isinstance(inner, gym.vector.VectorEnv)
        actions = inner.single_action_space if self.batched else inner.action_space
        if not isinstance(actions, gym.spaces.Discrete):
            raise ValueError(f"the agent takes one action a chunk, got {actions}")
        channels, size = _shape_of_goals(inner.single_observation_space if self.batched else inner.observation_space)
        self.device = torch.device(inner.world.device if device is None else device)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network = ActorCritic(channels, size, len(settings.labels), settings.width)
        self.network = network.to(self.device)
        self.optimiser = torch.optim.Adam(self.network.parameters(), lr=settings.learning_rate, eps=1e-5)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.labels = np.array(settings.labels)
        self.updates = 0
        self.history: list[dict[str, float]] = []
        """A line of figures for every update so far: steps, success, reward, entropy, kl, ..."""

    def act(self, obs: Any, info: dict[str, Any]) -> Any:
        """Return an action drawn from the policy, or of a vector env's observations one for each, int64 [N]."""
        planes, goals = self._planes(obs)
        actions, _, _ = self._choose(planes, goals)
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
        """Train until the agent has seen that many steps of all worlds together, or time is up.

        Args:
            steps: The budget, with what was seen before a resumption; the learning rate falls over it.
            minutes: Of wall clock, for this call.
            folder: For the checkpoint, `ppo.pt`, and TensorBoard's events.
            events: Whether to write those; it needs the package `tensorboard`.
            report: Called with the line of `history` of every update.

        Raises:
            ValueError: The env is not one to learn in.
        """
        if not self.batched or self.env.metadata["autoreset_mode"] is not gym.vector.AutoresetMode.SAME_STEP:
            raise ValueError('learning takes a vector env with autoreset_mode="same_step": make it with that')
        began, count = time.perf_counter(), self.env.num_envs
        total = -(-steps // (self.settings.horizon * count))
        observation: Any = None
        with nullcontext() if folder is None or not events else _tensorboard(folder) as writer:
            while self.updates < total and time.perf_counter() - began < 60 * minutes:
                if observation is None or self.updates % self.settings.checkpoint_every == 0:
                    if folder is not None:
                        self.save(folder / "ppo.pt")
                    own, *seeds = np.random.SeedSequence([self.seed, self.updates]).generate_state(1 + count).tolist()
                    self.generator.manual_seed(own)  # a generator's state could not go on on another device
                    observation, _ = self.env.reset(seed=seeds)
                self.optimiser.param_groups[0]["lr"] = self.settings.learning_rate * (1 - self.updates / total)
                before = time.perf_counter()
                experience, observation, figures = self.gather(observation)
                figures |= self.improve(experience)
                figures["learning_rate"] = self.optimiser.param_groups[0]["lr"]
                figures["steps_per_second"] = self.settings.horizon * count / (time.perf_counter() - before)
                self.updates += 1
                self.history.append({"steps": self.updates * self.settings.horizon * count, **figures})
                if writer is not None:
                    for name, value in figures.items():
                        writer.add_scalar(f"ppo/{name}", value, self.history[-1]["steps"])
                if report is not None:
                    report(self.history[-1])
        if folder is not None:
            self.save(folder / "ppo.pt")

    def gather(self, observation: Any) -> tuple[Experience, Any, dict[str, float]]:
        """Act for a horizon of steps; return them, the observation after the last, and figures."""
        rows: list[tuple[Tensor, ...]] = []
        earned, arrived, lengths = [], [], []
        for _ in range(self.settings.horizon):
            planes, goals = self._planes(observation)
            actions, log_probabilities, values = self._choose(planes, goals)
            observation, *outcome, info = self.env.step(self.labels[actions.cpu().numpy()])
            rewards, terminations, truncations = (torch.as_tensor(part).to(self.device) for part in outcome)
            earned.append(rewards.float())
            arrived.append(terminations)
            if "final_obs" in info:
                lengths += info["final_info"]["step"][info["_final_obs"]].tolist()
                rewards = rewards.float() + self._cut_short(info, truncations & ~terminations)
            ended = terminations | truncations
            rows.append((planes, goals, actions, log_probabilities, values, rewards.float(), ended))
        seen, wanted, chosen, log_probabilities, values, rewards, ended = map(torch.stack, zip(*rows, strict=True))
        with torch.no_grad():
            _, last_value = self.network(*self._planes(observation))
        advantages = advantages_of(rewards, values, ended, last_value, self.settings.discount, self.settings.trace)
        experience = Experience(seen, wanted, chosen, log_probabilities, values, rewards, ended, advantages)
        episodes, arrivals, total = (float(part.sum()) for part in (ended, torch.stack(arrived), torch.stack(earned)))
        figures = {"success": arrivals / max(episodes, 1), "episodes": episodes, "reward": total / max(episodes, 1)}
        figures["episode_length"] = sum(lengths) / max(len(lengths), 1)
        figures["explained_variance"] = explained_variance(values, values + advantages)
        return experience, observation, figures

    def _cut_short(self, info: dict[str, Any], truncated: Tensor) -> Tensor:
        """Return what episodes would still have brought that only the time limit ended: float32 [N], 0 for others."""
        rows = np.flatnonzero(info["_final_obs"])
        finals = [info["final_obs"][row] for row in rows]
        last = {name: torch.stack([torch.as_tensor(one[name]) for one in finals]) for name in finals[0]}
        with torch.no_grad():
            _, values = self.network(*self._planes(last))
        worth = torch.zeros(len(truncated), device=self.device)
        worth[torch.from_numpy(rows).to(self.device)] = self.settings.discount * values
        return worth * truncated

    def improve(self, experience: Experience) -> dict[str, float]:
        """Improve the network by what was experienced; return the means over its gradient steps of losses, KL, ..."""
        settings, batch = self.settings, experience.flat()
        size = len(batch["actions"])
        losses = []
        for _ in range(settings.epochs):
            order = torch.randperm(size, generator=self.generator, device=self.device)
            for part in order.chunk(settings.minibatches):
                mini = {name: column[part] for name, column in batch.items()}
                logits, values = self.network(mini["observations"], mini["goals"])
                every = logits.log_softmax(1)
                chosen = every.gather(1, mini["actions"][:, None]).squeeze(1)
                advantage = mini["advantages"]
                advantage = (advantage - advantage.mean()) / (advantage.std(correction=0) + 1e-8)
                policy = clipped_loss(chosen, mini["log_probabilities"], advantage, settings.clip)
                value = (values - mini["returns"]).square().mean() / 2
                entropy = -(every.exp() * every).sum(1).mean()
                kl, clipped = change_of(chosen.detach(), mini["log_probabilities"], settings.clip)
                self.optimiser.zero_grad()
                (policy + settings.value * value - settings.entropy * entropy).backward()
                nn.utils.clip_grad_norm_(self.network.parameters(), settings.gradient)
                self.optimiser.step()
                losses.append(torch.stack([policy, value, entropy, kl, clipped]).detach())
        means = torch.stack(losses).mean(0).tolist()
        return dict(zip(("policy_loss", "value_loss", "entropy", "kl", "clip_fraction"), means, strict=True))

    def _choose(self, planes: Tensor, goals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Draw an action each: indices of `labels`, their log probabilities, and the situations' values, [N]."""
        with torch.no_grad():
            logits, values = self.network(planes, goals)
            every = logits.log_softmax(1)
            actions = torch.multinomial(every.exp(), 1, generator=self.generator)
        return actions.squeeze(1), every.gather(1, actions).squeeze(1), values

    def _planes(self, obs: Any) -> tuple[Tensor, Tensor]:
        """Return the newest picture or latent frame and the goal's, [N, channels, rows, columns] on the device."""
        observation, goal = (torch.as_tensor(obs[name]).to(self.device) for name in ("observation", "goal"))
        if not self.batched:
            observation, goal = observation[None], goal[None]
        return newest(observation, goal), goal[:, :, 0] if goal.ndim == 5 else goal

    # ---- checkpoints

    def save(self, path: Path) -> None:
        """Write all that learning goes on from; a file of that name is replaced when the new one is whole."""
        state = {
            "settings": asdict(self.settings),
            "seed": self.seed,
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "updates": self.updates,
            "history": self.history,
        }
        with replacing(path) as partial:
            torch.save(state, partial)

    def restore(self, path: Path) -> None:
        """Go on from what `save` wrote, on any device.

        Raises:
            ValueError: It was written with other settings or another seed.
        """
        state = torch.load(path, map_location="cpu", weights_only=True)
        settings = Settings(**state["settings"])
        if (settings, state["seed"]) != (self.settings, self.seed):
            raise ValueError(
                f"{path} was written with seed {state['seed']} and {settings}, this agent has seed {self.seed} and "
                f"{self.settings}: give the same, or another folder"
            )
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.updates, self.history = state["updates"], state["history"]

    @classmethod
    def load(cls, path: Path, env: gym.Env[Any, Any] | gym.vector.VectorEnv[Any, Any, Any]) -> Self:
        """Return the agent that `save` wrote, to act in any env that shows pictures of the same size."""
        state = torch.load(path, map_location="cpu", weights_only=True)
        agent = cls(env, Settings(**state["settings"]), state["seed"])
        agent.restore(path)
        return agent


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise ImportError(
            f"TensorBoard's events need the package tensorboard ({error}): install it, or leave them out by "
            "events=False or --no-tensorboard"
        ) from error
    return SummaryWriter(str(folder))


def _shape_of_goals(space: Any) -> tuple[int, tuple[int, int]]:
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
    """Train PPO to come to the place that a picture shows."""

    world: str = "tiny"
    """Where: a name that `worldplay_env.load` knows, or a folder of weights."""
    size: tuple[int, int] = (48, 80)
    """Height and width of the pictures that the agent sees."""
    steps: int = BUDGET
    """The budget, of all worlds together."""
    minutes: float = float("inf")
    """Stop after that long at the latest."""
    num_envs: int = 64
    """Worlds in one batch."""
    seed: int = 0
    """Of the agent and of its episodes."""
    device: str | None = None
    """Of the world and the network; by default the world's own choice."""
    folder: Path = Path("outputs/ppo")
    """For TensorBoard's events and the checkpoint; if it has one, learning goes on from there."""
    tensorboard: bool = True
    """Whether to write events; it needs the package of that name."""


def main() -> None:
    """Train, and say how it goes."""
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


def _print(figures: dict[str, float]) -> None:
    print(", ".join(f"{name} {value:.4g}" for name, value in figures.items()), flush=True)


if __name__ == "__main__":
    main()
