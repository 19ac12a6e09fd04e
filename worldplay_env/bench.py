"""Time the parts of a world model's chunks against the hardware's limits: `python -m worldplay_env.bench`.

It measures the parts of one chunk of rollouts of a given age, again and again from the same past, and sets them
beside the operations that they take and the rate that the device reaches on a plain matrix product in the same run.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from worldplay_env.spinning import bound_spinning

if __name__ == "__main__":
    bound_spinning()  # before anything imports torch

import numpy as np
import torch
import tyro
from tqdm import tqdm

from worldplay_env.cli import WorldArgs, fail
from worldplay_env.control.actions import NUM_ACTIONS
from worldplay_env.media.files import write_json
from worldplay_env.models.codec import uint8_to_pixels
from worldplay_env.provenance import load_average, versions, world_facts
from worldplay_env.worlds.base import (
    Control,
    Start,
    WorldError,
)
from worldplay_env.worlds.diffusion.latent_rollout import LatentRollout
from worldplay_env.worlds.diffusion.latent_world import LatentWorld
from worldplay_env.worlds.follow import next_control
from worldplay_env.worlds.registry import load
from worldplay_env.worlds.transfer import fetch

WARM_UP = 2
"""Runs that are not counted: they allocate, choose kernels, and make the prompt's keys and values."""


@dataclass(frozen=True)
class Args(WorldArgs):
    """Measure the parts of a chunk of a world model: medians, peak memory, operations and their rate."""

    world: str = "tiny"
    """"tiny", "wan-5b", "abot-5b", or a folder of weights."""
    age: int = 20
    """Chunks that the rollouts have behind them: a wandering path, with random latents in place of generated ones.
    From 5 on, memory is full and chosen by overlap."""
    batch: int = 1
    """Rollouts that are stepped together."""
    chunks: int = 10
    """How often the chunk is made and measured."""
    image_size: tuple[int, int] | None = None
    """Height and width of a frame, for a world that makes frames of several sizes. By default its own."""
    compile: bool = False
    """Compile the transformer's blocks and the decoder."""
    quantize: Literal["fp8"] | None = None
    """"fp8" for linear layers of 8 bits in the transformer's blocks."""
    attention: Literal["cudnn"] | None = None
    """"cudnn" for cuDNN's attention kernel. By default torch's choice."""
    json: Path | None = None
    """Where to write everything as JSON as well."""


@dataclass(frozen=True)
class Part:
    """What was measured of one part of a chunk.

    Attributes:
        seconds: Of each run.
        operations: Floating point operations of one run; 0 where none are counted.
    """

    seconds: list[float]
    operations: int = 0

    @property
    def median(self) -> float:
        """Median seconds."""
        return statistics.median(self.seconds)

    @property
    def rate(self) -> float | None:
        """Operations a second; None where none are counted."""
        return self.operations / self.median if self.operations else None


def aged_rollout(world: LatentWorld, chunks: int, seed: int) -> tuple[LatentRollout, Control]:
    """Return a rollout of a certain age and the cameras of its next chunk, without running the transformer.

    Its past is a random walk (one random action a latent frame) with random latents, of which only the first chunk
    was decoded; so it costs what any rollout of that age costs.
    """
    generator = np.random.default_rng(seed)
    picture = generator.integers(0, 256, (*world.image_size, 3), dtype=np.uint8)
    rollout = world.start(Start(picture, "a place"), seed)
    noise = torch.Generator(world.device).manual_seed(seed)
    state = None
    for _ in range(chunks):
        latents = torch.randn(world.latent_shape, generator=noise, device=world.device)
        if state is None:
            with torch.no_grad():
                _, state = world.codec.decode(latents[None])
        control = next_control(rollout, generator.integers(0, NUM_ACTIONS, world.layout.latents))
        rollout.commit(world.made_up(latents, control, rollout), state)
    return rollout, next_control(rollout, generator.integers(0, NUM_ACTIONS, world.layout.latents))


def measure(world: LatentWorld, age: int, batch: int, repeats: int) -> dict[str, Part]:
    """Make the next chunk of `batch` rollouts of that age, `repeats` times from the same past; return its parts.

    They are "encode" (of a start picture, once a rollout), "first" (the first run, which compiles, allocates and
    chooses kernels), the parts of `Chunk.timings`, "host" (fetching the frames) and "total",
    which is a whole step with "host" and without "encode".
    """
    pasts, controls = zip(*(aged_rollout(world, age, seed) for seed in range(batch)), strict=True)
    encode = _encode_seconds(world, repeats)
    runs: list[dict[str, float]] = []
    for repeat in tqdm(range(WARM_UP + repeats), desc="measuring", unit="chunk", leave=False):
        rollouts = [past.fork() for past in pasts]
        _synchronise(world.device)
        began = time.perf_counter()
        chunks = world.step(rollouts, controls)
        stepped = time.perf_counter()
        for chunk in chunks:
            assert chunk.frames is not None
            fetch(chunk.frames)
        ended = time.perf_counter()
        if repeat == 0:
            first = ended - began
        if repeat >= WARM_UP:
            runs.append({**chunks[0].timings, "host": ended - stepped, "total": ended - began})
    counted = _operations(world, age, batch)
    names = ["encode", "first", *(name for name in runs[0] if name != "total"), "total"]
    seconds = {"encode": encode, "first": [first]} | {name: [run[name] for run in runs] for name in runs[0]}
    return {name: Part(seconds[name], counted.get(name, 0)) for name in names}


def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations a second of a large matrix product, the limit that the model's rates are set beside."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / statistics.median(_timed(lambda: a @ b, device, 20))


def peak_memory(device: torch.device) -> int:
    """Return the most bytes that tensors took on a GPU, or that this process took in all on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on Windows

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _encode_seconds(world: LatentWorld, repeats: int) -> list[float]:
    pixels = uint8_to_pixels(torch.zeros(1, 3, 1, *world.image_size, dtype=torch.uint8, device=world.device))
    with torch.no_grad():
        return _timed(lambda: world.codec.encode(pixels), world.device, repeats)


def _timed(function: Callable[[], Any], device: torch.device, repeats: int) -> list[float]:
    seconds = []
    for _ in range(WARM_UP + repeats):
        _synchronise(device)
        began = time.perf_counter()
        function()
        _synchronise(device)
        seconds.append(time.perf_counter() - began)
    return seconds[WARM_UP:]


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _operations(world: LatentWorld, age: int, batch: int) -> dict[str, int]:
    """Return the operations of each part that has any, by the names of the timings."""
    parts = world.operations(age)
    parts["total"] = sum(parts.values())
    return {name: batch * count for name, count in parts.items()} | {
        "encode": world.codec.encode_operations(world.image_size)
    }


def report(args: Args, world: LatentWorld, parts: dict[str, Part], peak: float, memory_bytes: int) -> dict[str, Any]:
    """Return everything that was measured, as plain values."""
    frames = args.batch * world.layout.images_of(args.age)
    return {
        "settings": asdict(args),
        "world": {**world_facts(world), "dtype": str(world.dtype).removeprefix("torch.")},
        "parts": {
            name: {
                "median_seconds": part.median,
                "fastest_seconds": min(part.seconds),
                "slowest_seconds": max(part.seconds),
                "operations": part.operations,
                "operations_per_second": part.rate,
                "share_of_peak": part.rate and part.rate / peak,
            }
            for name, part in parts.items()
        },
        "frames_per_second": frames / parts["total"].median,
        "playback_frames_per_second": world.fps,
        "peak_memory_bytes": memory_bytes,
        "matmul_operations_per_second": peak,
        "load_average": load_average(),
        "versions": versions(world.device),
    }


def table(result: dict[str, Any]) -> str:
    """Return a report as a table to read."""
    world, settings, peak = result["world"], result["settings"], result["matmul_operations_per_second"]
    height, width = world["image_size"]
    lines = [
        f"{world['name']} ({world['weights']} weights), {height}x{width}, {world['dtype']}, "
        f"batch {settings['batch']}, age {settings['age']} chunks; medians of {settings['chunks']} runs; "
        f"{'compiled' if settings['compile'] else 'not compiled'}, linear layers in "
        f"{settings['quantize'] or world['dtype']}, attention by {settings['attention'] or 'torch'}",
        f"{result['versions']['device']} ({world['device']}), load {result['load_average']}, "
        f"torch {result['versions']['torch']}",
        "",
        f"{'part':12}{'median':>12}{'fastest':>12}{'slowest':>12}{'GFLOP':>12}{'GFLOP/s':>12}{'of matmul':>11}",
    ]
    for name, part in result["parts"].items():
        times = (part[f"{which}_seconds"] for which in ("median", "fastest", "slowest"))
        line = f"{name:12}" + "".join(f"{1000 * seconds:9.2f} ms" for seconds in times)
        if part["operations"]:
            rate, share = part["operations_per_second"], part["share_of_peak"]
            line += f"{part['operations'] / 1e9:12,.2f}{rate / 1e9:12,.1f}{share:11.1%}"
        lines.append(line)
    kind = "GPU memory allocated" if world["device"].startswith("cuda") else "process memory"
    lines += [
        "",
        f"{result['frames_per_second']:.1f} frames/s in all, {result['playback_frames_per_second']} play in a second",
        f"peak {kind}: {result['peak_memory_bytes'] / 2**30:.2f} GiB",
        f"a plain {world['dtype']} matrix product reaches {peak / 1e9:,.0f} GFLOP/s here",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return its exit code: 0, 2 for wrong arguments, 1 for other errors."""
    args = tyro.cli(Args, prog="python -m worldplay_env.bench", args=arguments)
    try:
        _check(args)
        world = load(args.world, **args.load_options(), **_network_options(args))
        if not isinstance(world, LatentWorld):
            raise ValueError(f"only world models can be measured, and {args.world!r} has no model")
    except (ValueError, OSError, RuntimeError) as error:
        return fail(error, 2)
    if world.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(world.device)  # loading is no part of a chunk
    try:
        parts = measure(world, args.age, args.batch, args.chunks)
    except WorldError as error:
        return fail(error, 1)
    memory_bytes = peak_memory(world.device)  # before the matrix product, which needs some itself
    result = report(args, world, parts, measured_peak(world.device, world.transformer.dtype), memory_bytes)
    print(table(result))
    if args.json is not None:
        try:
            write_json(args.json, result)
        except OSError as error:
            return fail(error, 1)
        print(f"\n{args.json}")
    return 0


def _network_options(args: Args) -> dict[str, Any]:
    """Return what `load` is told of the networks: the options that were given, since other worlds know none."""
    options = {
        "image_size": args.image_size,
        "compile": args.compile,
        "quantize": args.quantize,
        "attention": args.attention,
    }
    return {name: value for name, value in options.items() if value}


def _check(args: Args) -> None:
    if args.json is not None and args.json.is_dir():
        raise ValueError(f"--json names a file to write, and {args.json} is a folder")
    for name, least in (("age", 0), ("batch", 1), ("chunks", 1)):
        if getattr(args, name) < least:
            raise ValueError(f"--{name} must be {least} or more, got {getattr(args, name)}")


if __name__ == "__main__":
    sys.exit(main())
