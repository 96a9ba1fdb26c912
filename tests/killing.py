"""Work in a process of its own that is killed after some time."""

from __future__ import annotations

import os
import signal
import time
import traceback


def ends(seconds, work, *arguments, number=signal.SIGKILL):
    """Whether `work(*arguments)` comes to its end within some seconds; then its process gets the signal `number`. It is
    killed where the test itself is ended meanwhile."""
    child = os.fork()
    if child == 0:
        os.setpgrp()
        try:
            work(*arguments)
        except SystemExit:
            os._exit(1)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    ended = status = 0
    signalled = False
    try:
        ending = time.monotonic() + seconds
        while not ended and time.monotonic() < ending:
            ended, status = os.waitpid(child, os.WNOHANG)
            time.sleep(0.001)
        if not ended:
            os.kill(child, number)
            signalled = True
            ended, status = os.waitpid(child, 0)
    finally:
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    assert status == 0 or (signalled and number in (signal.SIGTERM, os.WTERMSIG(status))), status
    return status == 0
