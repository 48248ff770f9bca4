# Uses the x32 numbers, which a table of x86-64 numbers does not have.
# Expect: limit
# After: no process
# Machine: x86_64

import ctypes


def solver(agent, task):
    ctypes.CDLL(None).syscall(0x40000000 | 57)
    return {"answer": "LEAK"}
