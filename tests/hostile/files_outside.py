# Links, renames, truncates and deletes what is outside.
# Expect: ok contained
# After: nothing changed

import json
import os


def solver(agent, task):
    world = json.loads(task)
    leaks = []
    for attempt in attempts(world):
        try:
            attempt()
        except OSError:
            continue
        leaks.append(attempt.__name__)
    return {"answer": f"LEAK {leaks}" if leaks else "contained"}


def attempts(world):
    label, new = world["label"], os.path.join(world["folder"], "new")

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
