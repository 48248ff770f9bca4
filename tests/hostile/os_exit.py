# Ends the process without a result.
# Expect: limit
# After: no process
# Enough: limits

import os


def solver(agent, task):
    os._exit(0)
