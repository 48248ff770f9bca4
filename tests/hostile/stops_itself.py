# Stops its own process, so that no limit of CPU is ever reached.
# Expect: timeout
# After: no process
# Wall: 0.5
# Enough: limits

import os
import signal


def solver(agent, task):
    os.kill(os.getpid(), signal.SIGSTOP)
