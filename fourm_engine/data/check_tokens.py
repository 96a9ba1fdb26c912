"""What the token shards of a part of a data set hold: codes, lengths, and whether they are still those of its files.

In: a folder that `fourm tokenize` wrote, and the digests of the files that were read. Out: a JSON-ready entry a
modality, and findings.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fourm_engine.data.findings import Finding, Listed
from fourm_engine.data.names import shown
from fourm_engine.data.shards import digest, shard_paths
from fourm_engine.data.statistics import lengths
from fourm_engine.data.tokens import TokenShards, check_made_with
from fourm_engine.data.view_shards import RecordedViews
from fourm_plugins.modality import Modality
from fourm_plugins.tokenizer import Tokenizer

_AGAIN = "run `fourm tokenize` again"


def check_tokens(
    folder: Path,
    part: str,
    modalities: Mapping[str, Modality],
    tokenizers: Mapping[str, Tokenizer],
    contents: Mapping[str, Mapping[str, int]],
    stamp: Callable[[str, str], str],
    having: Mapping[str, frozenset[str]],
) -> tuple[list[dict[str, Any]], list[Finding]]:
    """Args:
    tokenizers: modality -> fitted tokenizer, as far as they are there.
    contents: modality -> sample -> digest of its files, of those that were read.
    stamp: (sample, modality) -> sizes and times of its files.
    having: modality -> all samples of the part that have it."""
    entries, findings = list[dict[str, Any]](), list[Finding]()

    def problem(name: str, message: str, remedy: str = _AGAIN, items: Any = ()) -> None:
        findings.append(Finding("tokens", "problem", f"{part}: {message}", remedy, part, name, Listed(items)))

    def note(name: str, message: str, remedy: str = _AGAIN, items: Any = ()) -> None:
        findings.append(Finding("tokens", "note", f"{part}: {message}", remedy, part, name, Listed(items)))

    try:
        recorded = RecordedViews(folder)
    except ValueError as error:
        problem("", str(error), "")
        return entries, findings
    for path in recorded.damaged_views():
        problem(
            "", f"{path}: the views are not those that were recorded; the file is damaged", f"remove it and {_AGAIN}"
        )
    for name, modality in modalities.items():
        if modality.spec.continuous:
            continue
        if not shard_paths(folder / name):
            if name in having:
                note(name, f"{shown(folder / name)}: no tokens of {name}; it is tokenized whenever it is read")
            continue
        try:
            shards = TokenShards(folder / name)
            check_made_with(modality, dict(zip(shards.paths, shards.metadata)))
        except ValueError as error:
            problem(name, str(error), "")
            continue
        if name in tokenizers and tokenizers[name].fingerprint != shards.fingerprint:
            problem(
                name,
                f"{folder / name}: made by tokenizer {shards.fingerprint}, but that of {name} is "
                f"{tokenizers[name].fingerprint}",
                "tokenize again into an empty folder",
            )
        entry, bad, constant = _ids(shards, modality)
        entries.append({"part": part, "modality": name, **entry})
        if bad:
            problem(
                name,
                f"{len(bad)} samples of {folder / name}, such as {shown(bad[0])}, hold ids that {name} does not have; "
                f"the file is damaged",
                f"remove the shards and {_AGAIN}",
                bad,
            )
        if constant:
            note(
                name,
                f"{len(constant)} samples of {name}, such as {shown(constant[0])}, hold one id alone",
                "empty pictures, or a tokenizer that tells too little apart (`fourm tokenizer eval`)",
                constant,
            )
        group = modality.spec.alignment
        if group in recorded.groups:
            views = recorded.digests(group)
            if other := [n for n, view in shards.column("view").items() if views.get(n, view) != view]:
                problem(
                    name, f"{len(other)} samples of {name}, such as {shown(other[0])}, show other views", _AGAIN, other
                )
        _compare(shards, name, contents.get(name, {}), stamp, having.get(name, frozenset()), problem, note)
    return entries, findings


def _ids(shards: TokenShards, modality: Modality) -> tuple[dict[str, Any], list[str], list[str]]:
    """(what the ids are like, samples with ids that cannot be, samples of one id)."""
    spec = modality.spec
    assert spec.token_space is not None
    size, counts, found = spec.token_space.size, np.zeros(spec.token_space.size, np.int64), Counter[int]()
    bad, constant = list[str](), list[str]()
    for name in shards.names:
        rows = []
        for view in range(shards.views):
            try:
                rows.append(shards.ids(name, view))
            except ValueError:
                rows = []
                break
        whole = spec.layout.kind == "sequence" or all(len(row) == spec.layout.num_tokens for row in rows)
        ids = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        if not rows or not whole or (len(ids) and not 0 <= ids.min() <= ids.max() < size):
            bad.append(name)
            continue
        counts += np.bincount(ids, minlength=size)
        found.update(len(row) for row in rows)
        if spec.layout.kind == "grid" and spec.layout.num_tokens > 1 and all(np.ptp(row) == 0 for row in rows):
            constant.append(name)
    share = counts[counts > 0] / max(int(counts.sum()), 1)
    entry: dict[str, Any] = {
        "samples": len(shards.names),
        "views": shards.views,
        "shards": len(shards.paths),
        "ids": size,
        "used": int((counts > 0).sum()),
        "perplexity": float(np.exp(-(share * np.log(share)).sum())) if len(share) else 0.0,
        "constant": len(constant),
        "damaged": len(bad),
        "fingerprint": shards.fingerprint,
    }
    if spec.layout.kind == "sequence" and found:
        most = spec.layout.num_tokens
        cut = sum(n for length, n in found.items() if length + 1 > most)
        entry["tokens"] = lengths(Counter({length + 1: n for length, n in found.items()})) | {
            "most": most,
            "truncated": cut / found.total(),
        }
    return entry, bad, constant


def _compare(
    shards: TokenShards,
    name: str,
    contents: Mapping[str, int],
    stamp: Callable[[str, str], str],
    having: frozenset[str],
    problem: Callable[..., None],
    note: Callable[..., None],
) -> None:
    """Tokens beside the files that they were made from."""
    made, stamps = shards.column("content"), shards.column("stamp")
    if changed := sorted(n for n, content in contents.items() if n in made and content and made[n] != content):
        problem(
            name,
            f"{len(changed)} files of {name}, such as {shown(changed[0])}, hold something else than when they were "
            f"tokenized",
            f"{_AGAIN} (with --verify)",
            changed,
        )
    known = contents.keys() | set(changed)
    unread = sorted(n for n in having if n in made and n not in known and digest(stamp(n, name)) != stamps[n])
    if unread:
        note(
            name,
            f"{len(unread)} files of {name} that were not read, such as {shown(unread[0])}, have another size or time "
            f"than when they were tokenized",
            f"{_AGAIN}, if they have changed",
            unread,
        )
    if absent := sorted(n for n in having if n not in made):
        problem(
            name,
            f"{len(absent)} of {len(having)} samples of {name}, such as {shown(absent[0])}, have no tokens and are "
            f"left out",
            _AGAIN,
            absent,
        )
    if gone := sorted(n for n in made if n not in having) if having else []:
        note(
            name,
            f"{len(gone)} samples of {name}, such as {shown(gone[0])}, have tokens and no file in this part; their "
            f"tokens are used if its split lists them",
            "`fourm tokenize --prune` drops those whose file is gone",
            gone,
        )
