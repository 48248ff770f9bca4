# Links, renames, truncates and deletes what is outside.
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
    label, new = host["label"], os.path.join(host["folder"], "new")

    def remove():
        os.unlink(label)

    def rename():
        os.rename(label, new)

    def link():
        os.link(label, new)

    def symlink():
        os.symlink(label, new)

    def truncate():
        os.truncate(label, 0)

    def folder():
        os.mkdir(new)

    def pipe():
        os.mkfifo(new)

    def append():
        open(label, "a")

    return remove, rename, link, symlink, truncate, folder, pipe, append
