# Lets the kernel send the signal: a timer that names a thread of another process.
# Expect: ok contained
# After: the zygote lives

import ctypes
import json
import os
import signal
import struct

CREATE = {"x86_64": 222, "aarch64": 107}[os.uname().machine]
SIGEV_THREAD_ID = 4


def solver(agent, task):
    libc = ctypes.CDLL(None)
    leaks = []
    for pid in (os.getppid(), json.loads(task)["pool"], 1, 2):
        event = struct.pack("Qiii44x", 0, signal.SIGKILL, SIGEV_THREAD_ID, pid)
        if libc.syscall(CREATE, 1, event, ctypes.byref(ctypes.c_int())) == 0:
            leaks.append(pid)
    return {"answer": f"LEAK {leaks}" if leaks else "contained"}
