"""The sampler beside an obvious version and beside the floor of its own arithmetic, in one process.

    OMP_NUM_THREADS=1 python -m benchmarks.generation --size Ti --batch 4
    python -m benchmarks.generation --size B --batch 16 --compile --dtype bfloat16     # on a GPU

For each task: seconds of `benchmarks/obvious_generation.py`, of the engine's sampler, their ratio; the FLOPs of the
products that the sampler makes (counted as it runs) at the rate of one large product of this machine; and how many
times that the sampler takes. Left to right, reading takes longer than that arithmetic: the floor is then the time of
encoding, and of reading the weights, and the keys and values that each row sees, once a token, at the measured rate of
reading. Weights are random, and those of the head so large that logits spread as those of trained models do. "same
tokens" is the share in which the two agree. On a GPU, "launched s" is the sampler without CUDA graphs; a line says
where its tokens are others.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.obvious_generation import Obvious
from benchmarks.published import SPECIALS, TEXTS, Samples
from fourm_engine.generate.plan import Stage
from fourm_engine.generate.sample import Sample, SequenceIds
from fourm_engine.generate.sampler import Sampler
from fourm_engine.generate.sampling import generators, uniforms
from fourm_engine.generate.schedules import tokens_per_step
from fourm_engine.masking.pack import Shown
from fourm_engine.nn.config import ModelConfig
from fourm_engine.nn.heads import HEAD_SCALE
from fourm_engine.nn.transformer import Transformer


@dataclass(frozen=True)
class Task:
    name: str
    stage: Stage
    length: int = 0  # of a sequence


LOGITS_STD = 3.0
PROFILED = 12  # kernels that a profile tells
DRAWN = {"temperature": 1.0, "top_p": 0.9}
GREEDY = {"temperature": 0.0, "top_p": None}


def tasks() -> list[Task]:
    grid, text = {"target": "depths"}, {"target": "sentence", "scheme": "autoregressive"}
    roar = {**grid, "scheme": "random_order", "steps": 25, "schedule": "linear"}
    return [
        Task("MaskGIT, 8 steps", Stage(**grid, scheme="parallel", steps=8, **DRAWN)),
        Task("MaskGIT, 8 steps, guided", Stage(**grid, scheme="parallel", steps=8, guidance=2.0, **DRAWN)),
        Task("ROAR, 25 steps", Stage(**roar, **DRAWN)),
        Task("ROAR, 25 steps, guided", Stage(**roar, guidance=2.0, **DRAWN)),
        Task("captions of 64 tokens", Stage(**text, max_tokens=64, **DRAWN), 64),
        Task("captions of 128 tokens, guided", Stage(**text, max_tokens=128, guidance=2.0, **DRAWN), 128),
    ]


class Bench:
    def __init__(self, options: argparse.Namespace) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.dtype = getattr(torch, options.dtype)
        made = Samples(tokens=128, side=options.side)
        torch.manual_seed(0)
        config = ModelConfig(size=options.size)
        self.network = Transformer(config, made.vocabulary).to(self.device, self.dtype).eval()
        with torch.no_grad():
            self.network.heads.weight.mul_(LOGITS_STD / HEAD_SCALE)
        plain = Transformer(config, made.vocabulary).to(self.device, self.dtype).eval()
        plain.load_state_dict(self.network.state_dict())
        if options.compile:
            self.network.compile_blocks()
        self.vocabulary, self.n = made.vocabulary, options.side**2
        ids = {name: SequenceIds(SPECIALS.end, SPECIALS.sentinels[0], frozenset()) for name in TEXTS}
        self.sampler = Sampler(self.network, made.vocabulary, sequences=ids, inputs=set(made.specs))
        self.obvious = Obvious(plain, made.vocabulary)
        self.start = SPECIALS.sentinels[0]
        rng = np.random.default_rng(0)
        patches = [
            rng.standard_normal((self.n, made.specs["pixels"].patch_dim), dtype=np.float32)
            for _ in range(options.batch)
        ]
        tokens = np.full(self.n, -1, np.int64)
        self.given = [{"pixels": Shown(np.arange(self.n), tokens, x)} for x in patches]
        self.seeds = list(range(options.batch))

    def ours(self, task: Task, *, graphs: bool = True) -> np.ndarray:
        self.sampler.graphs.enabled = graphs
        samples = [Sample(dict(given)) for given in self.given]
        return np.array([f[task.stage.target].ids for f in self.sampler.run(samples, [task.stage], self.seeds)])

    def obviously(self, task: Task) -> np.ndarray:
        stage, rngs = task.stage, generators(self.seeds)
        weight = 1.0 if stage.guidance is None else float(stage.guidance)  # type: ignore[arg-type]
        options = {"weight": weight, "temperature": stage.temperature, "top_p": stage.top_p or 1.0}
        if task.length:
            limit = self.vocabulary[stage.target].layout.num_tokens
            uniform = uniforms(rngs, limit, device=self.device)[:, : task.length]
            return self.obvious.sequence(self.given, stage.target, self.start, uniform, **options).cpu().numpy()
        uniform = uniforms(rngs, stage.steps, self.n, device=self.device)
        priority = uniforms(rngs, self.n, device=self.device) if stage.scheme == "random_order" else None
        counts = tokens_per_step(stage.schedule, stage.steps, self.n)
        return (
            self.obvious.parallel(self.given, stage.target, counts, uniform, priority=priority, **options).cpu().numpy()
        )

    def flops(self, task: Task) -> float:
        with FlopCounterMode(display=False) as counter:
            self.ours(task, graphs=False)
        return counter.get_total_flops()

    def floor(self, task: Task, rate: float, bandwidth: float) -> tuple[float, float]:
        """FLOPs, and the least seconds they take at `rate`; left to right, those of encoding and then of reading at
        `bandwidth`, where that is more."""
        flops = self.flops(task)
        if not task.length:
            return flops, flops / rate
        encoding = self.flops(replace(task, stage=task.stage.model_copy(update={"max_tokens": 1})))
        weights = [p for name, p in self.network.decoder.named_parameters() if "cross_attn.kv" not in name]
        head = self.vocabulary[task.stage.target].size * self.network.config.width
        # Keys and values: of the context of each sample (without conditions there is none), and of the tokens before.
        decoded = len(self.given) * (1 if task.stage.guidance is None else 2)
        seen = len(self.given) * self.n + decoded * (task.length + 1) / 2
        keys_values = 2 * self.network.config.width * len(self.network.decoder) * seen
        read = task.length * (sum(p.numel() for p in weights) + head + keys_values) * weights[0].element_size()
        return flops, max(flops / rate, encoding / rate + read / bandwidth)

    def now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()  # other processes share the machine

    def seconds(self, run: Callable[[], Any], repeats: int) -> tuple[float, Any]:
        spent = []
        for _ in range(repeats):
            began = self.now()
            result = run()
            spent.append(self.now() - began)
        return min(spent), result

    def measured(self, task: Task, repeats: int, *, graphs: bool) -> tuple[float, np.ndarray]:
        """Seconds, once it is warm, compiled and recorded, and the tokens."""
        for _ in range(2 if graphs and self.device.type == "cuda" else 1):
            self.ours(task, graphs=graphs)
        return self.seconds(lambda: self.ours(task, graphs=graphs), repeats)

    def profile(self, task: Task) -> None:
        """The kernels that take most of the GPU's time."""
        with torch.profiler.profile() as profile:
            self.ours(task)
        kernels = [row for row in profile.key_averages() if row.device_type == torch.autograd.DeviceType.CUDA]
        kernels.sort(key=lambda kernel: -kernel.self_device_time_total)
        print(f"  {sum(kernel.self_device_time_total for kernel in kernels) / 1e3:.1f} ms of kernels")
        for kernel in kernels[:PROFILED]:
            print(f"  {kernel.self_device_time_total / 1e3:8.2f} ms {kernel.count:6} × {kernel.key:.90}")

    def rates(self) -> tuple[float, float]:
        """FLOP/s of a large product; bytes/s of reading a large matrix for a product with one vector."""
        n = 8192 if self.device.type == "cuda" else 1024
        a, b = (torch.randn(n, n, device=self.device, dtype=self.dtype) for _ in range(2))
        tall = torch.randn(30000 if self.device.type == "cpu" else 200_000, 1024, device=self.device, dtype=self.dtype)
        x = torch.randn(1024, device=self.device, dtype=self.dtype)
        (a @ b), (tall @ x)
        return 2 * n**3 / self.seconds(lambda: a @ b, 7)[0], tall.numel() * tall.element_size() / self.seconds(
            lambda: tall @ x, 7
        )[0]


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="Ti", choices=["Ti", "S", "B", "L", "XL"])
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=14, help="tokens of a grid's side")
    parser.add_argument("--repeats", type=int, default=2, help="of the engine's sampler; the quickest counts")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--greedy", action="store_true", help="take the likeliest tokens, draw none")
    parser.add_argument("--profile", action="store_true", help="tell which kernels take a GPU's time")
    parser.add_argument("--only", default="", help="tasks whose names hold this")
    options = parser.parse_args()
    bench = Bench(options)
    print(f"4M-{options.size}, {options.batch} samples, {bench.n} patches given, {bench.device}, {options.dtype}")
    columns = "obvious s  launched s  sampler s  ratio   GFLOP  floor s  x floor  same tokens"
    print(f"{'task':31} {columns}")
    for task in tasks():
        if options.only not in task.name:
            continue
        if options.greedy:
            task = replace(task, stage=task.stage.model_copy(update=GREEDY))
        ours, tokens = bench.measured(task, options.repeats, graphs=True)
        launched = ours
        if bench.device.type == "cuda":
            launched, alike = bench.measured(task, options.repeats, graphs=False)
            if (tokens != alike).any():
                print(f"{task.name}: CUDA graphs change {(tokens != alike).mean():.1%} of the tokens")
        rate, bandwidth = bench.rates()
        obvious, expected = bench.seconds(lambda: bench.obviously(task), 1)  # noqa: B023
        flops, floor = bench.floor(task, rate, bandwidth)
        print(
            f"{task.name:31} {obvious:9.3f} {launched:11.3f} {ours:10.3f} {obvious / ours:6.1f} "
            f"{flops / 1e9:7.0f} {floor:8.4f} "
            f"{ours / floor:8.2f}  {(tokens == expected).mean():.1%}",
            flush=True,
        )
        if options.profile:
            bench.profile(task)


if __name__ == "__main__":
    main()
