# Takes a higher priority, or another processor.
# Expect: ok contained
# After: nothing changed

import json
import os


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
    def nice():
        os.nice(-5)

    def priority():
        os.setpriority(os.PRIO_PROCESS, os.getppid(), 19)

    def scheduler():
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))

    def affinity():
        os.sched_setaffinity(os.getppid(), {0})

    return nice, priority, scheduler, affinity
