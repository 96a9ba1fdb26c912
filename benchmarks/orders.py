"""Quality against steps for each decoding order, on a trained demo (`make demo`).

    OMP_NUM_THREADS=1 python -m benchmarks.orders runs/demo data/demo/val --samples 50

For each order and number of steps, of drawn samples: the first metric of the target given a picture; and, of pictures
made from a caption, the nats a token that the model gives the caption when it sees the picture: lower, the better the
picture shows what was said. Steps are those that were taken: an order may stop early.
"""

from __future__ import annotations

import argparse
import tarfile
from pathlib import Path
from typing import Any

from fourm_engine.evaluate.matrix import nats_by_sample
from fourm_engine.generate.parallel import Parallel
from fourm_engine.generate.plan import Stage
from fourm_engine.model import FourM

ORDERS: dict[str, dict[str, Any]] = {
    "parallel": {"scheme": "parallel"},
    "random_order": {"scheme": "random_order"},
    "halton": {"scheme": "halton"},
    "remask": {"scheme": "remask", "order": {"share": 0.1}},
    "entropy": {"scheme": "entropy", "order": {"bound": 1.0}},
}


def read(folder: Path, count: int) -> dict[str, dict[str, bytes]]:
    """Sample -> extension -> content, of the first samples of a modality's shards."""
    samples: dict[str, dict[str, bytes]] = {}
    for shard in sorted(folder.glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                name, _, extension = member.name.partition(".")
                if name not in samples and len(samples) == count:
                    return samples
                file = tar.extractfile(member)
                assert file is not None
                samples.setdefault(name, {})[extension] = file.read()
    return samples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("data", type=Path, help="folder of held-out shards, one folder a modality")
    parser.add_argument("--picture", default="rgb")
    parser.add_argument("--target", default="depth")
    parser.add_argument("--text", default="caption")
    parser.add_argument("--samples", type=int, default=50)
    parser.add_argument("--steps", type=int, nargs="+", default=[2, 4, 8, 16, 32])
    options = parser.parse_args()
    model = FourM.from_pretrained(options.run, device="cpu")
    values = {
        name: [model.modalities[name].read(files) for files in read(options.data / name, options.samples).values()]
        for name in (options.picture, options.target, options.text)
    }
    metric = model.modalities[options.target].metrics()[0]
    pictures = [{options.picture: value} for value in values[options.picture]]
    sentences = [{options.text: value[0]} for value in values[options.text]]
    ids = model.tokenizers[options.text].encode([sentence[options.text] for sentence in sentences])
    taken: list[int] = []
    step = Parallel._step

    def counted(self: Parallel, number: int, active: list[int], count: list[int]) -> None:
        taken.append(len(active))
        step(self, number, active, count)

    Parallel._step = counted  # type: ignore[method-assign]
    print(
        f"{options.samples} samples; {options.picture} to {options.target}: {metric.name}; {options.text} to ", end=""
    )
    print(f"{options.picture}: nats a token of the {options.text}")
    print("order          steps   taken  metric    taken    nats")
    for name, scheme in ORDERS.items():
        for steps in options.steps:
            line = f"{name:14} {steps:5}"
            for inputs, target in ((pictures, options.target), (sentences, options.picture)):
                taken.clear()
                plan = [Stage(target=target, steps=steps, temperature=1.0, top_p=0.9, **scheme)]
                results = model.generate_batch(inputs, target, plan=plan)
                if target == options.target:
                    score = metric.compute([r[target].value for r in results], values[target])
                else:
                    seen = [{target: r[target].tokens, options.text: x} for r, x in zip(results, ids, strict=True)]
                    nats, tokens = nats_by_sample(model, seen, [target], [options.text], batch_size=16)[options.text]
                    score = nats.sum() / tokens.sum()
                line += f" {sum(taken) / len(inputs):7.1f} {score:7.3f}"
            print(line, flush=True)


if __name__ == "__main__":
    main()
