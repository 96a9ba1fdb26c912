"""Drawn samples led away from a weaker model, beside plain ones and classifier-free guidance:

    python -m benchmarks.guide runs/demo runs/weak data/demo/val --samples 60

Every metric of each target, in eight drawn steps (temperature 1, top-p 0.9, one seed), from each of the inputs below.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import fourm_engine as fm
from benchmarks.shards import read

TASKS = ((("boxes", "caption"), "semseg"), (("rgb",), "semseg"), (("rgb",), "depth"))
DRAWN: dict[str, Any] = {"steps": 8, "temperature": 1.0, "top_p": 0.9, "batch_size": 30}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run")
    parser.add_argument("weaker")
    parser.add_argument("data", type=Path, help="folder of held-out shards, one folder a modality")
    parser.add_argument("--samples", type=int, default=60)
    parser.add_argument("--target", help="only tasks of this target")
    options = parser.parse_args()
    model, weaker = (fm.FourM.from_pretrained(run, device="cpu") for run in (options.run, options.weaker))
    ways: dict[str, dict[str, Any]] = {"plain": {}, "guidance 2": {"guidance": 2.0}}
    ways |= {f"guide {weight:g}": {"guide": fm.Guide(weaker, weight)} for weight in (1.5, 2.0, 3.0)}
    ways["guidance 2, guide 1.5"] = {**ways["guidance 2"], **ways["guide 1.5"]}

    def values(name: str) -> list[Any]:
        modality = model.modalities[name]
        values = [modality.read(files) for files in read(options.data / modality.spec.source, options.samples).values()]
        # Texts have a line per caption.
        return [v[0] if isinstance(v, tuple) else v for v in values]

    for inputs, target in TASKS:
        if options.target not in (None, target):
            continue
        given = [dict(zip(inputs, sample, strict=True)) for sample in zip(*map(values, inputs), strict=True)]
        truths, metrics = values(target), model.modalities[target].metrics()
        print(f"{' + '.join(inputs)} to {target}: {', '.join(metric.name for metric in metrics)}")
        for what, how in ways.items():
            made = [result[target].value for result in model.generate_batch(given, target, **DRAWN, **how)]
            scores = "  ".join(f"{m.compute(made, truths):.3f}" for m in metrics if m.min_samples <= len(truths))
            print(f"  {what:22} {scores}", flush=True)


if __name__ == "__main__":
    main()
