# Changes mode, owner, times and attributes of a file that everybody may write.
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
    label = host["label"]

    def chmod():
        os.chmod(label, 0o700)

    def chown():
        os.chown(label, os.getuid(), os.getgid())

    def utime():
        os.utime(label, (1, 1))

    def setxattr():
        os.setxattr(label, "user.w4s", b"1")

    return chmod, chown, utime, setxattr
