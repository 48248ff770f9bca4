# Looks for the API key in every environment it can reach.
# Expect: ok contained
# After: the key is not in the answer

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
    def own():
        if host["canary"] not in str(dict(os.environ)):
            raise OSError

    def of(pid):
        def read():
            with open(f"/proc/{pid}/environ", "rb") as file:
                file.read()

        return read

    return own, of("self"), of(os.getppid()), of(host["pool"]), of(1)
