"""Learning WordPiece pieces from word counts, the same on every machine and in every process.

(The trainer of the `tokenizers` library breaks ties by the order of a hash table that is seeded anew in each process.)
Pieces are grown by merging the most frequent pair of neighbours (Sennrich et al. 2016), starting from characters; a
piece that continues a word begins with "##".
"""

from __future__ import annotations

import heapq
import string
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from itertools import pairwise

CONTINUES = "##"
MIN_COUNT = 2  # a pair seen once is no pattern
#: Always known, so that text that differs from the training text can still be spelt.
ALPHABET = string.ascii_lowercase + string.digits


def learn_pieces(words: Mapping[str, int], size: int) -> list[str]:
    """At most `size` pieces for words with these counts: the characters, then merged pieces as they were found."""
    characters: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            characters[character] += count
    base = [*ALPHABET, *(CONTINUES + c for c in ALPHABET), *string.punctuation]
    rare_last = sorted(characters, key=lambda c: (-characters[c], c))
    base += [p for c in rare_last for p in (c, CONTINUES + c)]
    pieces = dict.fromkeys(base[:size])
    for piece in _merges(words):
        if len(pieces) >= size:
            break
        pieces.setdefault(piece)
    return list(pieces)


def _merges(words: Mapping[str, int]) -> Iterator[str]:
    """Yield merged pieces, the most frequent pair first; of equally frequent pairs the alphabetically first."""
    spelling = [[word[0], *(CONTINUES + c for c in word[1:])] for word in sorted(words) if word]
    counts = [words[word] for word in sorted(words) if word]
    pairs: Counter[tuple[str, str]] = Counter()
    where: dict[tuple[str, str], set[int]] = defaultdict(set)
    for index, parts in enumerate(spelling):
        for pair in pairwise(parts):
            pairs[pair] += counts[index]
            where[pair].add(index)
    heap = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(heap)
    while heap:
        count, pair = heapq.heappop(heap)
        if -count != pairs[pair]:  # an old entry: the pair's count has changed since
            continue
        if -count < MIN_COUNT:
            return
        piece = pair[0] + pair[1].removeprefix(CONTINUES)
        yield piece
        changed: set[tuple[str, str]] = set()
        for index in sorted(where.pop(pair)):
            old = spelling[index]
            new = spelling[index] = _merge(old, pair, piece)
            for gone in pairwise(old):
                pairs[gone] -= counts[index]
                changed.add(gone)
            for come in pairwise(new):
                pairs[come] += counts[index]
                where[come].add(index)
                changed.add(come)
        for other in changed:
            if pairs[other] > 0:
                heapq.heappush(heap, (-pairs[other], other))


def _merge(parts: list[str], pair: tuple[str, str], piece: str) -> list[str]:
    merged: list[str] = []
    for part in parts:
        if merged and (merged[-1], part) == pair:
            merged[-1] = piece
        else:
            merged.append(part)
    return merged
