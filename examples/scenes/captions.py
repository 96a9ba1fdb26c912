"""Sentences about a scene, and the (kind, colour) pairs a sentence names.

In: the objects visible in a picture (`Thing`). Out: several differently worded captions, each naming every object's
colour and kind; and, the other way, the pairs parsed from any text, for scoring captions that a model wrote.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

import numpy as np
from world import COLOURS, KINDS

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
CAPTIONS = 4  # lines per scene
_PLURALS = {kind + "s": kind for kind in KINDS}


@dataclass(frozen=True)
class Thing:
    """A visible object: its words, `x` the column of its box's centre in [0, 1], `depth` its z-depth in metres, `share`
    the part of the picture it covers."""

    kind: str
    colour: str
    size: str
    material: str
    x: float
    depth: float
    share: float


def write_captions(things: list[Thing], rng: np.random.Generator) -> list[str]:
    """`CAPTIONS` sentences about `things` (at least one), wording drawn from `rng`, all different."""
    assert things
    wordings = [_counted, _counted_plain, _introduced]
    wordings += [_alone] * 2 if len(things) == 1 else [_left_to_right, _related, _front_to_back]
    captions: list[str] = []
    for wording in rng.permutation(np.array(wordings, dtype=object)):
        captions.append(wording(things, rng))
    unique = list(dict.fromkeys(captions))
    while len(unique) < CAPTIONS:
        candidate = _introduced(things, rng)
        if candidate not in unique:
            unique.append(candidate)
    return unique[:CAPTIONS]


def colour_kind_pairs(text: str) -> Counter[tuple[str, str]]:
    """The (kind, colour) pairs that `text` names, with counts: "two red cubes" is {("cube", "red"): 2}.

    Reads any text, in particular what a model generated: a kind without a colour before it counts for nothing, a number
    holds for the next kind only, and a plural without a number counts as two."""
    pairs: Counter[tuple[str, str]] = Counter()
    count, colour = 0, ""  # 0: no number was said
    for word in re.findall(r"[a-z]+|\d+|[^\sa-z\d]", text.lower()):
        kind = _PLURALS.get(word, word)
        if kind in KINDS:
            if colour:
                pairs[kind, colour] += count or (2 if word in _PLURALS else 1)
            count, colour = 0, ""
        elif word in COLOURS:
            colour = word
        elif word in NUMBERS:
            count, colour = NUMBERS.index(word), ""
        elif word.isdigit():
            count, colour = min(int(word), len(NUMBERS) - 1), ""
        elif word not in ("small", "large", "shiny", "matte", "striped"):
            count, colour = 0, ""  # an article, another noun or punctuation ends what was begun
    return pairs


def pair_recall(predicted: str, truth: str) -> float:
    """The share in [0, 1] of the (kind, colour) pairs of caption `truth` that caption `predicted` names, as multisets.

    Raises ValueError if `truth` names no pair."""
    wanted = colour_kind_pairs(truth)
    if not wanted:
        raise ValueError(f"truth {truth!r} names no (colour, kind) pair; give a caption of a scene")
    return (colour_kind_pairs(predicted) & wanted).total() / wanted.total()


def _noun(thing: Thing, rng: np.random.Generator, *, size: float = 0.5, material: float = 0.15) -> str:
    """ "a large shiny red cube"; size and material are said with the given probabilities."""
    words = [thing.size] * bool(rng.uniform() < size) + [thing.material] * bool(rng.uniform() < material)
    return " ".join(["a", *words, thing.colour, thing.kind])


def _listing(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _groups(things: list[Thing], rng: np.random.Generator, size: float) -> list[str]:
    """One phrase for all the objects of a colour and kind: "two red cubes", "a small blue cone"; the largest first."""
    groups: dict[tuple[str, str], list[Thing]] = {}
    for thing in sorted(things, key=lambda t: -t.share):
        groups.setdefault((thing.colour, thing.kind), []).append(thing)
    phrases = []
    for (colour, kind), members in groups.items():
        if len(members) == 1:
            phrases.append(_noun(members[0], rng, size=size))
        else:
            same = {m.size for m in members}
            words = [same.pop()] if len(same) == 1 and rng.uniform() < size else []
            phrases.append(" ".join([NUMBERS[len(members)], *words, colour, kind + "s"]))
    return phrases


def _counted(things: list[Thing], rng: np.random.Generator) -> str:
    return _listing(_groups(things, rng, 0.8))


def _counted_plain(things: list[Thing], rng: np.random.Generator) -> str:
    number = "one object" if len(things) == 1 else f"{NUMBERS[len(things)]} objects"
    return f"{number}: " + _listing(_groups(things, rng, 0.0))


def _introduced(things: list[Thing], rng: np.random.Generator) -> str:
    openings = ("a picture of", "a scene with", "a view of", "on the floor:", "we see", "a room with")
    opening = openings[int(rng.integers(6))]
    return f"{opening} " + _listing(_groups(things, rng, 0.4))


def _alone(things: list[Thing], rng: np.random.Generator) -> str:
    (thing,) = things
    side = "on the left" if thing.x < 0.4 else "on the right" if thing.x > 0.6 else "in the middle"
    return f"{_noun(thing, rng, size=0.7)} {side}"


def _left_to_right(things: list[Thing], rng: np.random.Generator) -> str:
    ordered = sorted(things, key=lambda t: t.x)
    return "from left to right: " + ", ".join(_noun(t, rng, size=0.3, material=0.0) for t in ordered)


def _front_to_back(things: list[Thing], rng: np.random.Generator) -> str:
    ordered = sorted(things, key=lambda t: t.depth)
    return "from front to back: " + ", ".join(_noun(t, rng, size=0.3, material=0.0) for t in ordered)


def _related(things: list[Thing], rng: np.random.Generator) -> str:
    """ "a red cube left of a small blue cone, with a green sphere": a relation of two objects, then the others."""
    first, second, *others = (things[int(k)] for k in rng.permutation(len(things)))
    relations = []
    if abs(first.x - second.x) > 0.1:
        relations.append("left of" if first.x < second.x else "right of")
    if abs(first.depth - second.depth) > 0.3:
        relations.append("in front of" if first.depth < second.depth else "behind")
    relation = relations[int(rng.integers(len(relations)))] if relations else "next to"
    sentence = f"{_noun(first, rng)} {relation} {_noun(second, rng)}"
    return sentence + (", with " + _listing(_groups(others, rng, 0.4)) if others else "")
