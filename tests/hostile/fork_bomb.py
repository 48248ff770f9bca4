# Forks as often as it can.
# Expect: ok contained
# After: no process

import os


def solver(agent, task):
    made = 0
    for _ in range(200):
        try:
            if os.fork() == 0:
                while True:
                    pass
            made += 1
        except OSError:
            pass
    return {"answer": f"LEAK {made}" if made else "contained"}
