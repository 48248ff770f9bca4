# Leaves a mark in the flags of the standard streams, which are open since before it was forked.
# Expect: ok contained
# After: no mark
# Runs: 2

import fcntl
import os


def solver(agent, task):
    marked = []
    for fd in (0, 1, 2):
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        marked += [fd] if flags & (os.O_APPEND | os.O_NONBLOCK) else []
        try:
            fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_APPEND | os.O_NONBLOCK)
        except OSError:
            pass
    return {"answer": f"LEAK {marked}" if marked else "contained"}
