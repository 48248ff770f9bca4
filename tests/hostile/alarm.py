# Lets a timer end the process.
# Expect: limit
# After: no process
# Enough: limits

import signal
import time


def solver(agent, task):
    signal.setitimer(signal.ITIMER_REAL, 0.01)
    time.sleep(1000)
