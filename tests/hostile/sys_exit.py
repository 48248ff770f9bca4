# Calls sys.exit.
# Expect: exception
# After: no process
# Enough: limits

import sys


def solver(agent, task):
    sys.exit(3)
