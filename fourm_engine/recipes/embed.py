"""Features of a data set, and its samples nearest to a query: what `fourm embed` and `fourm search` do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fourm_engine.data.raw.names import shown
from fourm_engine.features.encoder import encoder
from fourm_engine.features.index import Index, check_free
from fourm_engine.features.reading import DataSamples, batches
from fourm_engine.lock import at_work
from fourm_engine.recipes.config import manager_of_run
from fourm_engine.recipes.tell import Progress, Tell, choose_threads, say
from fourm_plugins.counting import counted


@torch.inference_mode()
def embed(
    run: str | Path,
    root: str | Path,
    inputs: Sequence[str],
    out: Path,
    *,
    batch_size: int = 32,
    device: str | None = None,
    tell: Tell = say,
) -> Index:
    """Write an index of the samples of `root` to the folder `out`: the mean feature of each, of what it has of
    `inputs`. An earlier index there is replaced.

    Args:
        run: folder of a run, an exported model, or a Hub id.
        root: a folder of data, as `data.train` names one.

    Raises ValueError where `out` holds something else, where nothing can be used, or features are not finite."""
    out = Path(out)
    with at_work(out, replaced=True):
        check_free(out)
        choose_threads(device)
        network = encoder(run, inputs, device=device, manager=manager_of_run(run))
        data = DataSamples(network, str(root))
        names, features = list[str](), list[np.ndarray]()
        progress = Progress(str(root), tell)
        for batch, done in batches(data, data.names, batch_size):
            values = network([sample for _, sample in batch]).float().cpu().numpy()
            if not np.isfinite(values).all():
                raise ValueError(f"{run}: features of {root} are not finite; the model has diverged, use another")
            names += [name for name, _ in batch]
            features.append(values)
            progress(done, len(data.names))
        if not names:
            raise ValueError(f"{root}: none of its {counted(len(data.names), 'sample')} can be used; see the warnings")
        index = Index(names, np.concatenate(features), list(network.inputs), network.fingerprint())
        index.save(out)
    left = len(data.names) - len(names)
    tell(
        f"{out}: {counted(len(names), 'sample')}, {network.num_features} features each, of {', '.join(network.inputs)}"
        + (f"; {left} could not be used" if left else "")
    )
    return index


@torch.inference_mode()
def search(
    folder: Path, run: str | Path, query: Mapping[str, Any], *, k: int = 5, device: str | None = None, tell: Tell = say
) -> list[tuple[str, float]]:
    """The `k` samples of an index nearest to a query by cosine, the nearest first; tells a line for each.

    `query`: modality -> value, of any inputs of the model, whatever the index was made from.

    Raises ValueError where the index is missing, damaged or another model's, and for a query that does not fit."""
    index = Index.load(Path(folder))
    choose_threads(device)
    network = encoder(run, device=device, manager=manager_of_run(run))
    if network.fingerprint() != index.fingerprint or index.features.shape[1] != network.num_features:
        raise ValueError(f"{folder}: made by another model than {run}; name that one, or make it again: `fourm embed`")
    sample = network.read(query)
    if not any(map(len, sample.shown.values())):
        raise ValueError("the query is empty; give a modality of the model as NAME=FILE or NAME=words")
    found = index.nearest(network([sample])[0].float().cpu().numpy(), k)
    for name, cosine in found:
        tell(f"{cosine:.4f} {shown(name)}")
    return found
