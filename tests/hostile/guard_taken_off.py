# Undoes parts of the guard by prctl, signals by fcntl, the terminal by ioctl.
# Expect: ok contained
# After: nothing changed

import ctypes
import fcntl
import json
import os


def solver(agent, task):
    host = json.loads(task)
    leaks = []
    for attempt in attempts(host):
        try:
            attempt()
        except OSError:
            continue
        leaks.append(attempt.__name__)
    return {"answer": f"LEAK {leaks}" if leaks else "contained"}


def attempts(host):
    libc = ctypes.CDLL(None, use_errno=True)

    def set_by_prctl(option, value):
        def attempt():
            if libc.prctl(option, value, 0, 0, 0):
                raise OSError(ctypes.get_errno(), "denied")

        attempt.__name__ = f"prctl {option}"
        return attempt

    def owner():
        fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())

    def lease():
        fcntl.fcntl(0, fcntl.F_SETLEASE, fcntl.F_RDLCK)

    def push_to_terminal():
        fcntl.ioctl(0, 0x5412, b"x")

    def user():
        os.setresuid(0, 0, 0)

    def groups():
        os.setgroups([0])

    options = ((1, 0), (4, 1), (8, 1), (22, 0), (36, 1), (23, 0), (47, 2))
    return *(set_by_prctl(*option) for option in options), owner, lease, push_to_terminal, user, groups
