# Reads address zero.
# Expect: limit
# After: no process

import ctypes


def solver(agent, task):
    ctypes.string_at(0)
