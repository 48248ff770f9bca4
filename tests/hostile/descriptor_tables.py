# Gives each thread a table of descriptors of its own, and so many times as many descriptors.
# Expect: ok contained
# After: no process

import ctypes
import os
import threading


def solver(agent, task):
    opened = []
    for _ in range(8):
        thread = threading.Thread(target=_flood, args=(opened,))
        thread.start()
        thread.join()
    return {"answer": f"LEAK {len(opened)}" if len(opened) > 200 else "contained"}


def _flood(opened):
    ctypes.CDLL(None).syscall(436, 1_000_000, 1_000_000, 2)  # close_range(CLOSE_RANGE_UNSHARE)
    try:
        while len(opened) < 10_000:
            opened += os.pipe()
    except OSError:
        pass
