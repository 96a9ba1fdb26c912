"""Implements `fourm embed` and `fourm search`: features of a data set, and the samples nearest to a query."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourm_engine.data.raw.names import shown
from fourm_engine.features.encoder import Encoder
from fourm_engine.features.index import DESCRIPTION, Index, check_free
from fourm_engine.features.labels import read_labels
from fourm_engine.features.predicted import PredictedFeatures
from fourm_engine.features.resizing import Size
from fourm_engine.features.retrieval import RetrievalMetrics
from fourm_engine.features.retrieval import evaluate as measure
from fourm_engine.features.samples import DataSamples, batches
from fourm_engine.files import write_atomically
from fourm_engine.lock import at_work
from fourm_engine.model import FourM
from fourm_engine.recipes.config import manager_of_run
from fourm_engine.recipes.progress import PrintFn, Progress, choose_threads, print_line
from fourm_engine.transfer.embeddings import TaskEmbeddings
from fourm_engine.transfer.encoder import encoder, refuse_size
from fourm_engine.transfer.model import load_head
from fourm_engine.transfer.retrieval import Retrieval
from fourm_engine.transfer.task_folder import is_task
from fourm_plugins.counting import counted, decimals
from fourm_plugins.spec import ClassMap, FeatureMap, Grid


@torch.inference_mode()
def embed(
    run: str | Path,
    root: str | Path,
    inputs: Sequence[str],
    out: Path,
    *,
    split: str | None = None,
    predict: str | None = None,
    size: Size | Mapping[str, Size] | None = None,
    alternatives: bool = False,
    batch_size: int = 32,
    device: str | None = None,
    print_fn: PrintFn = print_line,
) -> Index:
    """Write an index of the samples of `root` to the folder `out`, replacing any earlier one: the mean feature of each
    sample, computed from whichever `inputs` it has.

    Args:
        run: folder of a run, an exported model, or a Hub id; or a run of a retrieval task, whose embeddings are used.
        root: a folder of data, as in `data.train`.
        split: a list in its `splits.json`; only these samples are embedded.
        predict: a modality whose features are predicted from the inputs and embedded instead, see `PredictedFeatures`.
        size: size of the inputs, see `fourm_engine.features.encoder.encoder`.
        alternatives: a feature for each alternative of a sample, such as its captions, not only for the first.

    Raises ValueError if `out` holds something else, if no sample can be used, or if features are not finite."""
    out = Path(out)
    with at_work(out, replaced=True):
        check_free(out)
        choose_threads(device)
        network = _network(run, inputs, predict, size, device)
        data = DataSamples(network, str(root), split, alternatives=alternatives)
        names, features = list[str](), list[np.ndarray]()
        progress = Progress(str(root), print_fn)
        for batch, done in batches(data, data.names, batch_size):
            values = network([sample for _, sample in batch]).float().cpu().numpy()
            if not np.isfinite(values).all():
                raise ValueError(f"{run}: features of {root} are not finite; the model has diverged, use another")
            names += [name for name, _ in batch]
            features.append(values)
            progress(done, len(data.names))
        if not names:
            raise ValueError(f"{root}: none of its {counted(len(data.names), 'sample')} can be used; see the warnings")
        sizes = None if size is None else _edges(network)
        Index(names, np.concatenate(features), list(network.inputs), network.fingerprint(), predict, sizes).save(out)
    used = len(set(names))
    left = len(data.names) - used
    print_fn(
        f"{out}: {counted(used, 'sample')}, "
        + (f"{counted(len(names), 'alternative')}, " if alternatives else "")
        + f"{network.num_features} features each, "
        + (f"{predict} of " if predict else "of ")
        + ", ".join(network.inputs)
        + (f"; {left} could not be used" if left else "")
    )
    return Index.load(out)


@torch.inference_mode()
def search(
    folder: Path,
    run: str | Path,
    query: Mapping[str, Any],
    *,
    k: int = 5,
    device: str | None = None,
    print_fn: PrintFn = print_line,
) -> list[tuple[str, float]]:
    """The `k` samples of an index nearest to a query by cosine similarity, nearest first; also printed.

    `query`: modality -> value, for any inputs of the model, not only those of the index.

    Raises ValueError if the index is missing, damaged or from another model, and for an invalid query."""
    if (Path(run) / DESCRIPTION).is_file() and not (Path(folder) / DESCRIPTION).is_file():
        raise ValueError(f"{folder} is no index, and {run} is one: write fourm search {run} {folder} --query …")
    index = Index.load(Path(folder))
    choose_threads(device)
    names: list[str] | None = None
    if index.predicted is not None:
        names = list(query)
    elif index.size is not None:
        names = list(dict.fromkeys([*index.inputs, *query]))
    network = _network(run, names, index.predicted, index.size, device)
    if network.fingerprint() != index.fingerprint or index.features.shape[1] != network.num_features:
        raise ValueError(f"{folder}: made by another model than {run}; name that model, or run `fourm embed` again")
    sample = network.read(query)
    if not any(map(len, sample.shown.values())):
        raise ValueError("the query is empty; give a modality of the model as NAME=FILE or NAME=words")
    nearest = index.nearest(network([sample])[0].float().cpu().numpy(), k)
    for name, cosine in nearest:
        print_fn(f"{decimals(cosine, 4)} {shown(name)}")
    return nearest


def evaluate(folder: Path, queries: Path, *, labels: Path | None = None, out: Path | None = None) -> RetrievalMetrics:
    """Measure how well the index in `folder` retrieves the samples of the index in `queries`; optionally writes the
    result to `out` as JSON. Raises ValueError as `fourm_engine.features.retrieval.evaluate` does."""
    table = None if labels is None else read_labels(labels)
    result = measure(Index.load(Path(queries)), Index.load(Path(folder)), table)
    if out is not None:
        facts = {"index": str(folder), "queries_of": str(queries), **result.to_json()}
        write_atomically(Path(out), json.dumps(facts, indent=1))
    return result


def _network(
    run: str | Path,
    inputs: Sequence[str] | None,
    predict: str | None,
    size: Size | Mapping[str, Size] | None,
    device: str | None,
) -> Encoder | PredictedFeatures | TaskEmbeddings:
    if is_task(str(run)):
        refuse_size(run, size)
        if predict is not None:
            raise ValueError(f"--predict: {run} is of a task, which predicts no features; leave it out")
        task = load_head(run, device=device, manager=manager_of_run(run))
        return TaskEmbeddings(task, inputs) if isinstance(task.objective, Retrieval) else task.encoder(inputs)
    if predict is None:
        return encoder(run, inputs, size=size, device=device, manager=manager_of_run(run))
    if size is not None:
        raise ValueError("--predict: predicted features have the sizes that the model was trained at; leave --size out")
    model = FourM.from_pretrained(run, device=device, manager=manager_of_run(run))
    return PredictedFeatures(model, model.reader.input_names if inputs is None else inputs, predict)


def _edges(network: Encoder | PredictedFeatures | TaskEmbeddings) -> dict[str, tuple[int, int]]:
    """{input: (height, width)} of inputs that are grids."""
    specs = {name: network.reader.modalities[shown_as].spec for name, shown_as in network.inputs.items()}
    arrays = {name: spec.array for name, spec in specs.items() if isinstance(spec.layout, Grid)}
    return {name: (a.height, a.width) for name, a in arrays.items() if isinstance(a, (FeatureMap, ClassMap))}
