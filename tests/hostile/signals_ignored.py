# Ignores every signal it can and computes on.
# Expect: limit
# After: no process
# Enough: limits

import signal


def solver(agent, task):
    for number in range(1, 65):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
    while True:
        pass
