# Leaves a mark in the packages that the warm zygote has imported, and looks for one.
# Expect: ok contained
# After: no mark
# Runs: 2
# Enough: limits

import ctypes

import numpy


def solver(agent, task):
    first = float(numpy.random.random())
    held = numpy.core.multiarray if hasattr(numpy, "core") else numpy._core.multiarray
    marked = [hasattr(numpy, "w4s_state"), hasattr(held, "w4s_state"), numpy.pi != 3.141592653589793, first != _first()]
    numpy.w4s_state = held.w4s_state = True
    address = id(numpy.pi) + 16  # the value inside a float object of the zygote
    ctypes.c_double.from_address(address).value = 3.0
    numpy.random.seed(1)
    return {"answer": f"LEAK {marked}" if any(marked) else "contained"}


def _first():
    return float(numpy.random.RandomState(0).random_sample())
