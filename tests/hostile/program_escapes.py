# Hands the hostile code to execute_code instead, which runs it under the same guard.
# Expect: ok contained
# After: no process, no file

import json

PROGRAM = """
import os, socket
leaks = []
for name, attempt in (
    ("fork", os.fork),
    ("socket", socket.socket),
    ("label", lambda: open({label!r})),
    ("write", lambda: open({folder!r} + "/new", "w")),
    ("kill", lambda: os.kill(os.getppid(), 9)),
):
    try:
        attempt()
    except OSError:
        continue
    leaks.append(name)
leaks
"""


def solver(agent, task):
    host = json.loads(task)
    found = agent.execute_code(PROGRAM.format(label=host["label"], folder=host["folder"]))
    return {"answer": "contained" if found == "[]" else f"LEAK {found}"}
