"""Work in a process of its own that is killed after some time."""

from __future__ import annotations

import os
import signal
import time
import traceback


def ends(seconds, work, *arguments):
    """Whether `work(*arguments)` comes to its end within some seconds; then its process is killed, as it is where the
    test itself is ended meanwhile."""
    child = os.fork()
    if child == 0:
        os.setpgrp()
        try:
            work(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    ended = status = 0
    try:
        ending = time.monotonic() + seconds
        while not ended and time.monotonic() < ending:
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.001)
    finally:
        if not ended:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
    assert status == 0 or (not ended and os.WTERMSIG(status) == signal.SIGKILL), status
    return status == 0
