# Signals its parent, its group and everybody.
# Expect: ok contained
# After: the zygote lives

import json
import os
import signal


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
    def parent():
        os.kill(os.getppid(), signal.SIGKILL)

    def group():
        os.kill(0, signal.SIGKILL)

    def everybody():
        os.kill(-1, signal.SIGKILL)

    def pool():
        os.kill(host["pool"], signal.SIGKILL)

    def first():
        os.kill(1, signal.SIGCONT)

    def parents_group():
        os.killpg(os.getpgid(os.getppid()), signal.SIGKILL)

    return parent, group, everybody, pool, first, parents_group
