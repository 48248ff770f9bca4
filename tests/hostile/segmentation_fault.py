# Reads address zero.
# Expect: limit
# After: no process
# Enough: limits

import ctypes


def solver(agent, task):
    ctypes.string_at(0)
