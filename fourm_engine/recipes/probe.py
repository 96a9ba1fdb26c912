"""Implements `fourm probe`: measures the accuracy of classifiers on a model's features.

In: a model, and labelled samples (a folder with a sub-folder per class, or a data set and a file of labels). Out:
accuracies of kNN, linear and attentive probes and few-shot curves, as `probe.json`. The encoder stays frozen.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourm_engine.features import probes as probing
from fourm_engine.features.cache import features_of
from fourm_engine.features.encoder import Encoder
from fourm_engine.features.labels import labels_of
from fourm_engine.features.probes import Labelled
from fourm_engine.features.resizing import Size
from fourm_engine.features.samples import ClassFolder, DataSamples, Samples
from fourm_engine.files import write_atomically
from fourm_engine.lock import at_work
from fourm_engine.recipes.config import manager_of_run
from fourm_engine.recipes.progress import PrintFn, Progress, choose_threads, print_line
from fourm_engine.storage.mapped import MappedArray
from fourm_engine.transfer.encoder import encoder
from fourm_plugins.counting import counted
from fourm_plugins.suggest import did_you_mean

RESULT, CACHE = "probe.json", "features"
PROBES = ("knn", "linear", "attentive")
SHOTS = (1, 2, 5, 10, 20, 50, 100)
TRAIN, VAL = "train", ("val", "valid", "validation", "test")

#: Names, classes and features of samples, in the same order.
_Classed = tuple[list[str], list[str], dict[str, np.ndarray | MappedArray]]


def probe(
    run: str | Path,
    data: str | Path,
    inputs: Sequence[str],
    out: Path,
    *,
    val: str | Path | None = None,
    labels: str | Path | None = None,
    val_labels: str | Path | None = None,
    share: float = 0.2,
    probes: Sequence[str] = PROBES,
    shots: Sequence[int] = (),
    seeds: int = 5,
    epochs: int = 20,
    size: Size | Mapping[str, Size] | None = None,
    batch_size: int = 32,
    device: str | None = None,
    seed: int = 0,
    print_fn: PrintFn = print_line,
) -> dict[str, Any]:
    """Probe the encoder of a run, model or Hub id; returns the content of `out/probe.json`. Features are kept in
    `out/features` for later probes of the same samples.

    Args:
        data: a folder with a sub-folder per class, or with such folders `train` and `val`; with a file of `labels`
            (`read_labels`), a data set as in `data.train`.
        val_labels: labels of `val`, whose samples may have the same names as those of `data`.
        val: validation samples in the same form; without it and without a `val` folder, a `share` of each class.
        shots, seeds: few-shot probes with this many samples per class, each drawn with this many seeds; without
            `shots`, those of `SHOTS` that every class has.
        epochs, batch_size: of the attentive probe; the batch size also applies to the encoder.

    Raises ValueError for samples without a class or of a single class, unknown probes, and more shots than a class has
    samples."""
    out = Path(out)
    if wrong := [name for name in probes if name not in PROBES]:
        raise ValueError(f"--probe {wrong[0]!r}: {did_you_mean(wrong[0], PROBES, otherwise='there are')}")
    if not 0 <= seed < 1 << 63:
        raise ValueError(f"--seed {seed}: not in [0, 2^63)")
    with at_work(out):
        choose_threads(device)
        network = encoder(run, inputs, size=size, device=device, manager=manager_of_run(run))
        before = network.fingerprint()
        tokens, files = "attentive" in probes, (labels, val_labels)
        train, held, left = _samples(network, data, val, files, out, print_fn, tokens, batch_size)
        classes = sorted(set(train[1]))
        if len(classes) < 2:
            raise ValueError(f"{data}: all training samples have the class {classes[0]!r}; two classes are needed")
        fit, other = _divided(train, held, classes, share, seed)
        if not len(other):
            raise ValueError(f"{val or data}: no validation sample has a class of the training samples")
        counts = torch.bincount(fit.labels, minlength=len(classes))
        shots = _shots(shots, counts, classes)
        result: dict[str, Any] = {
            "run": str(run),
            "data": str(data),
            "inputs": list(network.inputs),
            "encoder": before,
            "classes": classes,
            "train": len(fit),
            "val": len(other),
            "left_out": left,
            "seed": seed,
            # Accuracy of always predicting the most frequent training class.
            "chance": float((other.labels == counts.argmax()).float().mean()),
            "probes": {},
            "few_shot": [],
        }
        for name in probes:
            scores, facts = _run(name, network, fit, other, len(classes), epochs, batch_size, seed)
            result["probes"][name] = {**_measured(scores, other), **facts}
            print_fn(f"{name}: top-1 {result['probes'][name]['top1']:.3f}")
        for number in shots:
            drawn = [probing.few_shot(fit, other, len(classes), number, seed=seed + i) for i in range(seeds)]
            result["few_shot"].append({"shots": number, **_spread([probing.accuracy(s, other.labels) for s in drawn])})
        if network.fingerprint() != before:
            raise RuntimeError("a probe changed the encoder")
        write_atomically(out / RESULT, json.dumps(result, indent=1, ensure_ascii=False))
    print_fn(f"{out / RESULT}: {counted(len(fit), 'training sample')}, {len(other)} held out; the encoder is unchanged")
    return result


def _divided(
    train: _Classed, held: _Classed | None, classes: Sequence[str], share: float, seed: int
) -> tuple[Labelled, Labelled]:
    """Training and validation samples of the `classes`. If `held` is None, a `share` of each class is held out."""
    known = {label: i for i, label in enumerate(classes)}
    everything = _labelled(train, known)
    if held is not None:
        return everything, _labelled(held, known)
    rows = probing.held_out(everything.labels, len(classes), share, seed)
    return everything.at((~rows).nonzero()[:, 0]), everything.at(rows.nonzero()[:, 0])


def _shots(wanted: Sequence[int], counts: torch.Tensor, classes: Sequence[str]) -> list[int]:
    """Numbers of samples per class, ascending: those `wanted`, or those of `SHOTS` that every class has. `counts`
    (classes,): training samples per class. Raises ValueError if a class has too few samples."""
    fewest = int(counts.argmin())
    if wanted and max(wanted) > counts[fewest]:
        has = counted(int(counts[fewest]), "training sample")
        raise ValueError(f"--shots {max(wanted)}: class {classes[fewest]!r} has {has}; lower it")
    return sorted(set(wanted)) or [number for number in SHOTS if number <= counts[fewest]]


def _spread(top1: Sequence[float]) -> dict[str, Any]:
    deviation = float(np.std(top1, ddof=1)) if len(top1) > 1 else None
    return {"mean": float(np.mean(top1)), "std": deviation, "top1": list(top1)}


def _run(
    name: str, network: Encoder, fit: Labelled, other: Labelled, classes: int, epochs: int, batch_size: int, seed: int
) -> tuple[torch.Tensor, dict[str, Any]]:
    if name == "knn":
        return probing.knn(fit, other, classes), {"k": probing.NEIGHBOURS, "temperature": probing.TEMPERATURE}
    if name == "linear":
        return probing.linear(fit, other, classes, seed=seed)
    heads = network.network.config.heads
    return probing.attentive(
        fit, other, classes, heads=heads, epochs=epochs, batch_size=batch_size, seed=seed, device=network.device
    )


def _measured(scores: torch.Tensor, samples: Labelled) -> dict[str, float]:
    top5 = {"top5": probing.accuracy(scores, samples.labels, top=5)} if scores.shape[1] > 5 else {}
    mean = probing.mean_class_accuracy(scores, samples.labels)
    return {"top1": probing.accuracy(scores, samples.labels), **top5, "mean_class": mean}


def _samples(
    network: Encoder,
    data: str | Path,
    val: str | Path | None,
    labels: tuple[str | Path | None, str | Path | None],
    out: Path,
    print_fn: PrintFn,
    tokens: bool,
    batch_size: int,
) -> tuple[_Classed, _Classed | None, int]:
    """(training samples, validation samples or None, number of samples left out), the samples as (names, classes,
    features)."""
    folders: list[str | Path | None] = [data, val]
    if labels[0] is None and val is None and (Path(data) / TRAIN).is_dir():
        beside = next((Path(data) / name for name in VAL if (Path(data) / name).is_dir()), None)
        if beside is not None:
            folders = [Path(data) / TRAIN, beside]
    if labels[1] is not None and (labels[0] is None or val is None):
        raise ValueError("--val-labels goes with --val and --labels; give both, or leave it out")
    parts, left, names = list[_Classed](), 0, set[str]()
    for folder, path in zip(folders, (labels[0], labels[1] or labels[0]), strict=True):
        if folder is None:
            continue
        samples, known = _open(network, folder, path)
        if labels[0] is not None and labels[1] is None and (both := names.intersection(known)):
            what = f"{min(both)!r} is a sample of {data} and of {val}"
            raise ValueError(f"{labels[0]}: {what}; give the classes of the latter as --val-labels")
        names.update(known)
        cached = features_of(
            network,
            samples,
            list(known),
            out / CACHE,
            tokens=tokens,
            batch_size=batch_size,
            progress=Progress(str(folder), print_fn),
        )
        how = "computed" if cached.computed else "as computed before"
        print_fn(f"{folder}: features of {counted(len(cached.names), 'sample')} {how}")
        left += len(samples.names) - len(cached.names)
        parts.append((cached.names, [known[name] for name in cached.names], cached.arrays))
    return parts[0], parts[1] if len(parts) > 1 else None, left


def _open(network: Encoder, folder: str | Path, labels: str | Path | None) -> tuple[Samples, dict[str, str]]:
    """The samples, and {name: class} for those that have one."""
    if labels is None:
        if len(network.inputs) > 1:
            raise ValueError("--input: a folder of classes has one modality; name one, or give a data set and --labels")
        samples: Samples = ClassFolder(network, Path(folder), next(iter(network.inputs)))
        return samples, {name: name.partition("/")[0] for name in samples.names}
    samples = DataSamples(network, str(folder))
    table = labels_of(labels, samples.data)
    known = {name: table[name] for name in samples.names if name in table}
    if not known:
        names = f"its names are like {next(iter(table))!r}, those of the samples like {samples.names[0]!r}"
        raise ValueError(f"{labels}: none of the samples of {folder} has a class there; {names}")
    return samples, known


def _labelled(samples: _Classed, known: Mapping[str, int]) -> Labelled:
    """The samples of known classes, ordered by name."""
    names, labels, arrays = samples
    rows = [i for i, label in enumerate(labels) if label in known]
    return Labelled(
        [names[i] for i in rows],
        torch.tensor([known[labels[i]] for i in rows], dtype=torch.int64),
        torch.from_numpy(np.asarray(arrays["pooled"])[rows]),
        arrays.get("tokens"),
        arrays.get("valid"),  # type: ignore[arg-type]
        np.array(rows, np.int64),
    )
