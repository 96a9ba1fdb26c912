"""Files that cannot be used: named, and raised or skipped as `data.on_error` says."""

from __future__ import annotations

import logging
from collections import Counter
from typing import Literal

from fourm_plugins.notes import ALONE

log = logging.getLogger(__name__)
#: Warnings of unusable files before they are only counted.
MAX_WARNINGS = 20


class BadFile(ValueError):
    """A file that cannot be used: where it is, for which modality, and why."""

    def __init__(self, where: str, modality: str, reason: str) -> None:
        super().__init__(": ".join(part for part in (where, modality, reason) if part))
        self.where, self.modality, self.reason = where, modality, reason

    def __reduce__(self) -> tuple:  # picklable: worker processes hand it to their parent
        return type(self), (self.where, self.modality, self.reason)


class BadFiles:
    """`on_error`: "raise" raises a bad file again; "skip" logs it (once a file, the first MAX_WARNINGS of a process)
    and counts it, and the caller continues without that modality of that sample."""

    def __init__(self, on_error: Literal["skip", "raise"]) -> None:
        self.on_error = on_error
        self._bad: dict[tuple[str, str], bool] = {}

    def add(self, name: str, bad: BadFile) -> bool:
        """A file of sample `name`. Returns whether it was named."""
        if self.on_error == "raise":
            raise bad
        if (key := (name, bad.modality)) in self._bad:
            return self._bad[key]
        self._bad[key] = len(self._bad) < MAX_WARNINGS
        if self._bad[key]:
            log.warning("skipped %s", bad, extra=ALONE)
        if len(self._bad) == MAX_WARNINGS:
            log.warning("further skipped files are only counted", extra=ALONE)
        return self._bad[key]

    @property
    def counts(self) -> dict[str, int]:
        """Modality -> files skipped so far by this process."""
        return dict(Counter(modality for _, modality in self._bad))
