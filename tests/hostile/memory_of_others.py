# Reads and traces the memory of other processes.
# Expect: ok contained
# After: the zygote lives

import ctypes
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

    def checked(result):
        if result < 0:
            raise OSError(ctypes.get_errno(), "denied")

    def memory(pid):
        def read():
            open(f"/proc/{pid}/mem", "rb")

        return read

    def attach():
        checked(libc.ptrace(16, os.getppid(), 0, 0))

    def seize():
        checked(libc.ptrace(0x4206, host["pool"], 0, 0))

    def vm_read():
        buffer = ctypes.create_string_buffer(16)
        piece = (ctypes.c_void_p * 2)(ctypes.addressof(buffer), 16)
        checked(libc.process_vm_readv(os.getppid(), piece, 1, piece, 1, 0))

    return memory("self"), memory(os.getppid()), memory(host["pool"]), attach, seize, vm_read
