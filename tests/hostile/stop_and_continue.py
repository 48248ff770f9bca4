# Would have one timer stop it and another continue it: no CPU limit, and its parent hears of every stop.
# Expect: ok contained
# After: no process; the zygote still serves

import ctypes
import os
import signal
import struct

CREATE = {"x86_64": 222, "aarch64": 107}[os.uname().machine]


def solver(agent, task):
    libc = ctypes.CDLL(None)
    made = []
    for number in (signal.SIGCONT, signal.SIGSTOP):
        event = struct.pack("Qii48x", 0, number, 0)
        made.append(libc.syscall(CREATE, 1, event, ctypes.byref(ctypes.c_int())) == 0)
    return {"answer": "LEAK" if any(made) else "contained"}
