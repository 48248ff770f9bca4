# Sleeps past the wall clock.
# Expect: timeout
# After: no process
# Wall: 0.5
# Enough: limits

import time


def solver(agent, task):
    time.sleep(1000)
