"""`python -m fourm_engine.cli.child WORDS`: a `fourm` command that stops, as by SIGTERM, when its parent is gone.

The parent holds the other end of standard input, a pipe.
"""

from __future__ import annotations

import os
import signal
import sys
import threading


def stop_with_parent() -> None:
    """Send this process SIGTERM when standard input ends."""

    def wait() -> None:
        while os.read(0, 1 << 10):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    from fourm_engine.cli import main

    stop_with_parent()
    sys.argv[0] = "fourm"
    main()
