# Recurses past every limit.
# Expect: limit | exception
# After: no process
# Enough: limits

import sys


def dive():
    return [dive()]


def solver(agent, task):
    sys.setrecursionlimit(10**9)
    return {"answer": dive()}
