# Raises its own limits and those of others.
# Expect: ok contained
# After: limits of others unchanged

import json
import os
import resource


def solver(agent, task):
    host = json.loads(task)
    leaks = []
    for attempt in attempts(host):
        try:
            attempt()
        except (OSError, ValueError):
            continue
        leaks.append(attempt.__name__)
    return {"answer": f"LEAK {leaks}" if leaks else "contained"}


def attempts(host):
    def raised(kind):
        def attempt():
            _, hard = resource.getrlimit(kind)
            resource.setrlimit(kind, (hard + 1, hard + 1))

        return attempt

    def of_the_parent():
        resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE, (3, 3))

    def of_the_pool():
        resource.prlimit(host["pool"], resource.RLIMIT_NOFILE, (3, 3))

    kinds = (resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_FSIZE, resource.RLIMIT_NOFILE)
    return *(raised(kind) for kind in kinds), of_the_parent, of_the_pool
