"""Finds files of equal bytes: within a part of the data they count twice, across parts they leak held-out data."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from fourm_engine.data.checks.files import MISALIGNED, USABLE
from fourm_engine.data.checks.findings import Finding, Listed
from fourm_engine.data.raw.names import shown
from fourm_engine.data.raw.plugin_root import PluginRoot
from fourm_plugins.counting import counted

#: (part, its folder, the samples that were read, source -> (samples,) of `survey.COLUMNS`)
Read = tuple[str, Path | PluginRoot, Sequence[str], Mapping[str, np.ndarray]]


def equal_files(parts: Sequence[Read], pictures: Collection[str]) -> list[Finding]:
    """Findings on equal files. Equal files of `pictures`, sources of feature maps, are duplicates unless they are
    constant. Other files may be equal by chance (an empty list, a short text): these are reported if all files of two
    samples are equal, and there are at least two."""
    findings = []
    for part, _, names, rows in parts:
        for key in sorted(pictures & rows.keys()):
            groups = _groups(_digests(rows[key]))
            if groups:
                listed = Listed([names[row] for row in group] for group in groups)
                some = " and ".join(shown(name) for name in listed.items[0][:2])
                what = f"{counted(sum(map(len, groups)), 'sample')} share {counted(len(groups), 'file')} of {key}"
                said = f"{part}: {what}, byte for byte, such as {some}"
                remedy = "they count several times; keep one of each unless that is meant"
                findings.append(Finding("duplicated", "note", said, remedy, part, key, listed))
    for index, first in enumerate(parts):
        for second in parts[index + 1 :]:
            findings += _leaks(first, second, pictures)
    return findings


def _leaks(first: Read, second: Read, pictures: Collection[str]) -> list[Finding]:
    findings = []
    for key in sorted(pictures & first[3].keys() & second[3].keys()):
        findings += _leak(first, second, key, _digests(first[3][key]), _digests(second[3][key]))
    keys = sorted(first[3].keys() & second[3].keys())
    if not findings and len(keys) > 1:
        findings += _leak(first, second, "", _all_of(first, keys), _all_of(second, keys))
    return findings


def _leak(first: Read, second: Read, key: str, mine: np.ndarray, theirs: np.ndarray) -> list[Finding]:
    both = np.intersect1d(mine, theirs)
    rows = np.flatnonzero(np.isin(theirs, both[both > 0]))
    where = {int(mine[row]): row for row in np.flatnonzero(np.isin(mine, both[both > 0]))[::-1].tolist()}
    pairs = [(first[2][where[int(theirs[row])]], second[2][row]) for row in rows.tolist()]
    if first[1] == second[1]:  # a sample of both splits is reported separately
        pairs = [(a, b) for a, b in pairs if a != b]
    if not pairs:
        return []
    what = f"{counted(len(pairs), 'file')} of {key}" if key else f"{counted(len(pairs), 'sample')}, with all files,"
    some = f"{shown(pairs[0][1])} (as {shown(pairs[0][0])})"
    said = f"{what} of {second[0]} in {first[0]} too, byte for byte, such as {some}"
    remedy = "held-out numbers will be too good; remove them from one of the two"
    listed = Listed({first[0]: a, second[0]: b} for a, b in pairs)
    return [Finding("leak", "problem", said, remedy, second[0], key, listed)]


def _digests(rows: np.ndarray) -> np.ndarray:
    """uint64 (samples,): the digests of non-constant files; 0 for others."""
    return np.where(np.isin(rows["state"], (USABLE, MISALIGNED)), rows["digest"], np.uint64(0))


def _all_of(part: Read, keys: Sequence[str]) -> np.ndarray:
    """uint64 (samples,): one digest for all files of a sample; 0 if it has fewer than two."""
    digests = np.stack([part[3][key]["digest"] for key in keys])
    mixed = np.zeros(digests.shape[1], np.uint64)
    for row in digests:
        mixed = mixed * np.uint64(0x9E3779B97F4A7C15) + row
    return np.where((digests > 0).sum(0) > 1, mixed, np.uint64(0))


def _groups(digests: np.ndarray) -> list[np.ndarray]:
    """Groups of rows that share a digest, in order; 0 is ignored."""
    order = np.argsort(digests, kind="stable")
    ordered = digests[order]
    same = (ordered[1:] == ordered[:-1]) & (ordered[1:] > 0)
    twice = np.zeros(len(order), bool)
    twice[1:] = same
    twice[:-1] |= same
    order = order[twice]
    edges = np.flatnonzero(np.diff(digests[order])) + 1
    return sorted(np.split(order, edges), key=lambda group: int(group[0])) if len(order) else []
