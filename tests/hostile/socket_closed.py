# Closes its socket and computes on.
# Expect: limit
# After: no process
# Enough: limits

import os


def solver(agent, task):
    os.close(agent._channel._fd)
    while True:
        pass
