# Reads the CPU time of other processes and arms timers on it.
# Expect: ok contained
# After: nothing

import ctypes
import json
import os
import struct
import time

CREATE = {"x86_64": 222, "aarch64": 107}[os.uname().machine]


def solver(agent, task):
    libc = ctypes.CDLL(None)
    leaks = []
    for pid in (os.getppid(), json.loads(task)["pool"], 1):
        clock = (~pid << 3) | 2
        try:
            leaks.append((pid, time.clock_gettime(clock)))
        except OSError:
            pass
        event = struct.pack("Qii48x", 0, 10, 1)
        if libc.syscall(CREATE, ctypes.c_int(clock), event, ctypes.byref(ctypes.c_int())) == 0:
            leaks.append((pid, "timer"))
    return {"answer": f"LEAK {leaks}" if leaks else "contained"}
