"""Evaluation of fitted tokenizers: each modality's metrics of held-out values after encoding and decoding.

In: fitted tokenizers and held-out data. Out: `TokenizerScores` per token modality in `tokenizers.json`, and
reconstructions above their originals in `sheet.png`.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.raw.aligned import AlignedData
from fourm_engine.data.views import ViewDrawer
from fourm_engine.drawing import png
from fourm_engine.evaluate.pictures import Output, SamplePictures, contact_sheet
from fourm_engine.evaluate.results import Score, measurable, measure
from fourm_engine.files import write_together
from fourm_engine.fit.samples import held_out_values, named_values
from fourm_engine.modalities import Modalities
from fourm_engine.tokenizers.neural import NeuralTokenizer
from fourm_engine.tokenizers.quantisers.base import SAYING, usage_of
from fourm_plugins import calls
from fourm_plugins.counting import counted
from fourm_plugins.modality import Metric, Modality
from fourm_plugins.tokenizer import Tokenizer

log = logging.getLogger(__name__)

FOLDER, JSON, SHEET = "tokenizer-evaluation", "tokenizers.json", "sheet.png"
FORMAT = 1
BATCH = 64


@dataclass(frozen=True)
class TokenizerScores:
    """One modality's tokenizer on held-out samples. In `scores`, `prediction` is the score of the reconstruction, and
    `constants` those of the best constant predictors. `used`, `dead` and `perplexity` are averaged over positions with
    separate codes; they are None for sequences, whose vocabulary is not a codebook, and if there are too few tokens
    per code."""

    modality: str
    kind: str
    fingerprint: str
    codes: int
    tokens: float  # a sample, the mean
    bits: float  # a sample: tokens x log2(codes)
    samples: int
    scores: list[Score]
    used: int | None = None  # codes that occur
    dead: int | None = None  # codes that do not
    perplexity: float | None = None  # exp of the entropy of the codes, at most `codes`
    left_out: int = 0  # files that could not be used


@dataclass(frozen=True)
class TokenizerEvaluation:
    tokenizers: list[TokenizerScores]
    #: What could not be computed, and why.
    notes: list[str]
    #: Files written: the report, and the sheet if there is a picture.
    files: list[Path] = field(default_factory=list)


def evaluate_tokenizers(
    modalities: Modalities,
    tokenizers: Mapping[str, Tokenizer],
    held_out: AlignedData,
    train: Sequence[AlignedData],
    views: ViewDrawer,
    out: Path,
    *,
    samples: int = 512,
    pictures: int = 6,
    features: str | None = None,
    constant_samples: int = 300,
    device: Any = "cpu",
) -> TokenizerEvaluation:
    """Evaluates `tokenizers`, by modality, on the first `samples` held-out samples, and writes the report to `out`.

    Args:
        train: data to fit the constant predictors to, `constant_samples` in total.
        views: the views of the samples.
        pictures: samples on the sheet.
        features: a network, by name or folder, for the metrics that need one."""
    measured, notes = [], list[str]()
    shown: dict[str, dict[str, tuple[Any, Any]]] = {}  # sample -> modality -> (value, reconstruction)
    for name in tokenizers:
        modality, tokenizer = modalities[name], tokenizers[name]
        if isinstance(tokenizer, NeuralTokenizer):
            tokenizer.to(device)
        values = named_values(held_out, name, views, limit=samples)
        if not values:
            notes.append(f"{name}: no held-out sample has it")
            continue
        metrics = calls.metrics(modality) + (modality.network_metrics(features) if features else ())
        known = _share(train, name, views, constant_samples)
        constants = calls.constants(modality, known) if known else {}
        ids, decoded = _round_trip(modality, tokenizer, list(values.values()))
        scores = _scores(modality, metrics, decoded, list(values.values()), constants, notes)
        measured.append(one := _describe(name, tokenizer, ids, scores, held_out.errors.get(name, 0)))
        if one.used is None and modality.spec.layout.kind != "sequence":
            book = "each position's codes" if tokenizer.positional else "codes"
            notes.append(
                f"{name}: {counted(one.samples, 'sample')} are too few to say which of {one.codes} {book} are in use: "
                f"fewer than {SAYING:,} tokens per code"
            )
        for (sample, value), again in zip(list(values.items())[: 4 * pictures], decoded):
            shown.setdefault(sample, {})[name] = (value, again)
        log.info("%s: %s encoded and decoded", name, counted(len(values), "sample"))
    files: dict[Path, str | bytes] = {out / JSON: _document(measured, notes)}
    # Prefer samples with the most modalities.
    best = sorted(sorted(shown), key=lambda sample: -len(shown[sample]))[:pictures]
    if best:
        names = [name for name in tokenizers if any(name in shown[sample] for sample in best)]
        files[out / SHEET] = _picture(modalities, names, shown, best)
    write_together(files)
    return TokenizerEvaluation(measured, notes, list(files))


def _share(parts: Sequence[AlignedData], modality: str, views: ViewDrawer, samples: int) -> list[Any]:
    """Values of about `samples` samples, from each part in proportion to its size."""
    parts = [part for part in parts if part.counts.get(modality)]
    total = sum(part.counts[modality] for part in parts)
    return [
        value
        for part in parts
        for value in held_out_values(part, modality, views, limit=-(-samples * part.counts[modality] // total))
    ]


def _round_trip(modality: Modality, tokenizer: Tokenizer, values: Sequence[Any]) -> tuple[list[np.ndarray], list[Any]]:
    """The ids of each value, and the values decoded from them."""
    ids, decoded = list[np.ndarray](), list[Any]()
    for start in range(0, len(values), BATCH):
        rows = calls.encode(tokenizer, [modality.normalise(value) for value in values[start : start + BATCH]])
        ids += rows
        decoded += [calls.denormalise(modality, array) for array in calls.decode(tokenizer, rows)]
    return ids, decoded


def _scores(
    modality: Modality,
    metrics: Sequence[Metric],
    decoded: Sequence[Any],
    values: Sequence[Any],
    constants: Mapping[str, Any],
    notes: list[str],
) -> list[Score]:
    scores = []
    for metric in measurable(modality.name, metrics, len(values), notes):
        score = measure(modality, metric, decoded, values, notes)
        beside = {
            what: measure(modality, metric, [value] * len(values), values, notes) for what, value in constants.items()
        }
        scores.append(Score(metric.name, metric.unit, metric.higher_is_better, score, constants=beside))
    return scores


def _describe(
    name: str, tokenizer: Tokenizer, ids: Sequence[np.ndarray], scores: list[Score], left_out: int
) -> TokenizerScores:
    tokens = float(np.mean([len(row) for row in ids]))
    spec = next(spec for spec in tokenizer.specs if spec.name == name)
    use, book = dict[str, float](), dict[str, Any]()
    if spec.layout.kind != "sequence":
        use = usage_of(ids, tokenizer.size, positional=tokenizer.positional, least=SAYING)
    if use:
        used = round(use["usage"] * tokenizer.size)
        book = {"used": used, "dead": tokenizer.size - used, "perplexity": use["perplexity"] * tokenizer.size}
    return TokenizerScores(
        modality=name,
        kind=tokenizer.kind,
        fingerprint=tokenizer.fingerprint,
        codes=tokenizer.size,
        tokens=tokens,
        bits=tokens * math.log2(tokenizer.size),
        samples=len(ids),
        scores=scores,
        left_out=left_out,
        **book,
    )


def _document(measured: Sequence[TokenizerScores], notes: Sequence[str]) -> str:
    document = {"format": FORMAT, "tokenizers": [asdict(scores) for scores in measured], "notes": list(notes)}
    return json.dumps(document, indent=1, ensure_ascii=False) + "\n"


def _picture(
    modalities: Modalities,
    names: Sequence[str],
    shown: Mapping[str, Mapping[str, tuple[Any, Any]]],
    samples: Sequence[str],
) -> bytes:
    rows = []
    for sample in samples:
        outputs = []
        for name in names:
            value, again = shown[sample].get(name, (None, None))
            rendered = (None, None) if value is None else calls.render_all(modalities[name], [again, value])
            outputs.append(Output(name, *rendered))
        rows.append(SamplePictures(sample, {}, outputs))
    return png(contact_sheet(rows, above="reconstruction"))
