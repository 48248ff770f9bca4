# Computes for ever in eight threads.
# Expect: limit
# After: no process
# Enough: limits

import threading


def spin():
    while True:
        pass


def solver(agent, task):
    for _ in range(8):
        threading.Thread(target=spin).start()
    spin()
