"""A process that ends between two steps, as when it is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


class Stop(BaseException):
    """No error of a program, which nobody catches."""


@contextmanager
def stopping_after(renames: int) -> Iterator[None]:
    """Within, all ends with `Stop` where a file would appear under its name for the (`renames` + 1)-th time."""
    replace, left = os.replace, renames

    def stopping(*arguments):
        nonlocal left
        if not left:
            raise Stop
        left -= 1
        return replace(*arguments)

    os.replace = stopping
    try:
        yield
    finally:
        os.replace = replace
