"""What a command tells on standard error while it works."""

from __future__ import annotations

import logging

from fourm_engine.device import rank_and_world


class Once(logging.Filter):
    """Lets each warning pass once: a command may open the same data several times. Of several processes, which open the
    same data, the first one tells, except for what one has met `ALONE`."""

    def __init__(self) -> None:
        super().__init__()
        self._told = set[str]()

    def filter(self, record: logging.LogRecord) -> bool:
        number, world = rank_and_world()
        if record.levelno <= logging.WARNING and world > 1 and number and not hasattr(record, "alone"):
            return False
        if record.levelno != logging.WARNING:
            return True
        line, before = record.getMessage(), len(self._told)
        self._told.add(line)
        return len(self._told) > before


class Plain(logging.Formatter):
    """What a command tells, as it is; before a warning or an error stands what it is."""

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        return line if record.levelno < logging.WARNING else f"fourm: {record.levelname.lower()}: {line}"


def log_to_stderr() -> None:
    """Print what is logged from INFO on, each warning once, and of libraries only what is wrong."""
    told = logging.StreamHandler()
    told.addFilter(Once())
    told.setFormatter(Plain())
    logging.basicConfig(level=logging.INFO, handlers=[told])
    for noisy in ("httpx", "filelock", "urllib3", "matplotlib", "PIL", "torch"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
