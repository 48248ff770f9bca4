# Opens a socket of every family and type.
# Expect: ok contained
# After: no connection

import json
import socket


def solver(agent, task):
    host = json.loads(task)
    leaks = []
    for attempt in attempts(host):
        try:
            attempt()
        except OSError:
            continue
        leaks.append(attempt.__name__)
    return {"answer": f"LEAK {leaks}" if leaks else "contained"}


def attempts(host):
    def opened(family, kind):
        def attempt():
            socket.socket(family, kind)

        attempt.__name__ = f"{family}/{kind}"
        return attempt

    return [opened(family, kind) for family in range(46) for kind in (1, 2, 3, 5)]
