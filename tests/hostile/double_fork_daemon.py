# Forks twice into a new session to outlive its item.
# Expect: ok contained
# After: no process

import os
import time


def solver(agent, task):
    try:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(1000)
            os._exit(0)
    except OSError:
        return {"answer": "contained"}
    return {"answer": "LEAK"}
