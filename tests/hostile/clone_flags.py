# Makes processes and namespaces through clone, and an unknown process through clone3.
# Expect: ok contained
# After: no process

import ctypes
import os

SPACES = (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000)


def solver(agent, task):
    libc = ctypes.CDLL(None, use_errno=True)
    clone = {"x86_64": 56, "aarch64": 220}[os.uname().machine]
    leaks = []
    for flags in (17, 0x100 | 17, 0x4000 | 0x100 | 17, *SPACES, *(0x10000 | s for s in SPACES)):
        pid = libc.syscall(clone, flags, 0, 0, 0, 0)
        if pid == 0:
            os._exit(0)
        if pid > 0:
            leaks.append(hex(flags))
    arguments = (ctypes.c_uint64 * 11)(0, 0, 0, 0, 17)
    if libc.syscall(435, arguments, 88) >= 0:
        leaks.append("clone3")
    for flags in SPACES:
        if libc.unshare(flags) == 0:
            leaks.append(f"unshare {flags:x}")
    return {"answer": f"LEAK {leaks}" if leaks else "contained"}
