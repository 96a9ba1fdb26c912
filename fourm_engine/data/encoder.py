"""ShardEncoder: from the files of one modality, seen through all their views, to token ids."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from fourm_engine.data.aligned import AlignedData
from fourm_engine.data.bad_files import BadFile
from fourm_engine.data.shards import digest
from fourm_engine.data.views import SampleViews, view_of
from fourm_plugins.tokenizer import Tokenizer
from fourm_plugins.view import View

#: Arrays that a tokenizer gets at a time.
ENCODE_BATCH = 64


def content_digest(files: Mapping[str, bytes]) -> int:
    return digest(*(part for extension, content in sorted(files.items()) for part in (extension, content)))


class ShardEncoder:
    """Encodes one modality of one shard in batches. A sample is left out if any of its views is unusable."""

    def __init__(
        self,
        data: AlignedData,
        modality: str,
        tokenizer: Tokenizer,
        seen: Callable[[str, int], SampleViews],
        views: int,
    ) -> None:
        self.data, self.modality, self.tokenizer, self.seen, self.views = data, modality, tokenizer, seen, views
        self.bad: list[BadFile] = []
        #: Sample -> digest of its files' bytes.
        self.contents: dict[str, int] = {}
        self._waiting: list[tuple[str, np.ndarray | str]] = []
        self._rows: dict[str, list[np.ndarray]] = {}
        self._again: dict[str, list[bool]] = {}  # sample -> for each view after the first, whether it shows the same

    def add(self, name: str) -> None:
        try:
            files = self.data.files(name, self.modality)
            value = self.data.value(name, self.modality, files)
            arrays = [
                self.data.normalise(
                    name, self.modality, self.data.augment(name, self.modality, value, self._view(name, number))
                )
                for number in range(self.views)
            ]
        except BadFile as bad:
            self.data.skip(name, bad)
            self.bad.append(bad)
            return
        self.contents[name] = content_digest(files)
        # Views that show the same (centre crops, which differ in captions alone) are encoded once.
        self._again[name] = again = [_same(array, arrays[0]) for array in arrays[1:]]
        self._waiting.append((name, arrays[0]))
        self._waiting += [(name, array) for array, same in zip(arrays[1:], again) if not same]
        if len(self._waiting) >= ENCODE_BATCH:
            self._encode()

    def _view(self, name: str, number: int) -> View:
        return view_of(self.data.modalities[self.modality].spec, self.seen(name, number), number)

    def _encode(self) -> None:
        for start in range(0, len(self._waiting), ENCODE_BATCH):
            batch = self._waiting[start : start + ENCODE_BATCH]
            for (name, _), ids in zip(batch, self.tokenizer.encode([array for _, array in batch]), strict=True):
                self._rows.setdefault(name, []).append(ids)
        self._waiting = []

    def finish(self) -> dict[str, list[np.ndarray]]:
        """Sample -> ids of each view."""
        self._encode()
        complete = {}
        for name, rows in self._rows.items():
            fresh = iter(rows[1:])
            complete[name] = [rows[0], *(rows[0] if again else next(fresh) for again in self._again[name])]
        return complete


def _same(a: np.ndarray | str, b: np.ndarray | str) -> bool:
    return a == b if isinstance(a, str) or isinstance(b, str) else np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
