"""`python -m octavo_operator.dependent PARENT VERB …`: runs a verb of `octavo` in a process that ends with its parent.

A parent that is killed cannot clean up, so the child sees to it: on Linux the kernel is asked to, elsewhere a thread looks.
"""

import ctypes
import os
import signal
import sys
import threading
import time

from octavo_api.command import main

_PR_SET_PDEATHSIG = 1
_LOOK = 0.5


def end_with(parent: int) -> None:
    """Ends this process by SIGKILL when `parent` is gone, now or later."""
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) == 0:
        if os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(parent,), name="parent", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_LOOK)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
