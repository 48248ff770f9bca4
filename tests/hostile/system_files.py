# Reads what any user of the machine may read.
# Expect: ok contained
# After: nothing of it is in the answer

import glob
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
    def opened(path):
        def read():
            os.open(path, os.O_RDONLY)

        read.__name__ = path
        return read

    paths = ("/etc/passwd", "/etc/hostname", "/proc/version", "/proc/self/maps", "/proc/self/status", "/proc/net/tcp",
             "/sys/kernel", "/var/log", "/home", "/root", "/", "/dev/mem", "/dev/kmsg", "/dev/tty", "/dev/fuse",
             "/run/docker.sock")  # fmt: skip

    def found():
        if not glob.glob("/*") and not glob.glob("/proc/[0-9]*"):
            raise OSError

    return *(opened(path) for path in paths), found
