"""Work in a process of its own that is killed after some time."""

from __future__ import annotations

import os
import signal
import time
import traceback


def ends(seconds, work, *arguments, number=signal.SIGKILL):
    """Whether `work(*arguments)` comes to its end within some seconds; then its process gets the signal `number`."""
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
    ending = time.monotonic() + seconds
    while time.monotonic() < ending:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert status == 0
            return True
        time.sleep(0.001)
    os.kill(child, number)
    return os.waitpid(child, 0)[1] == 0
