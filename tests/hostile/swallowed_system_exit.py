# Swallows every exception, SystemExit included, and goes on.
# Expect: limit
# After: no process
# Enough: limits

import sys


def solver(agent, task):
    while True:
        try:
            sys.exit(0)
        except BaseException:
            pass
