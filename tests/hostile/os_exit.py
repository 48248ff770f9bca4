# Ends the process without a result.
# Expect: limit
# After: no process

import os


def solver(agent, task):
    os._exit(0)
