# Calls sys.exit.
# Expect: exception
# After: no process

import sys


def solver(agent, task):
    sys.exit(3)
