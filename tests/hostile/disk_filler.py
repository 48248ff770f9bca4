# Writes files wherever a program might.
# Expect: ok contained
# After: no file

import json
import os
import tempfile


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
    def at(folder):
        def write():
            with open(os.path.join(folder, "w4s-filler"), "wb") as file:
                file.write(bytes(1 << 20))

        write.__name__ = folder
        return write

    def temporary():
        tempfile.TemporaryFile()

    def in_memory():
        os.memfd_create("filler")

    def unnamed():
        os.open(host["folder"], os.O_TMPFILE | os.O_RDWR)

    folders = (host["folder"], host["repository"], "/tmp", "/var/tmp", "/dev/shm", ".", os.path.expanduser("~"))
    return *(at(folder) for folder in folders), temporary, in_memory, unnamed
