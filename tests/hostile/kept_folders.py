# Walks out of the folders that it inherited open, by name and through /proc.
# Expect: ok contained
# After: the label is not in the answer

import json
import os


def solver(agent, task):
    host = json.loads(task)
    leaks = []
    for fd in range(64):
        for path in (host["label"], host["folder"], "/etc/passwd", "/root", "/proc/self/environ"):
            away = "../" * 20 + path.lstrip("/")
            for attempt in (lambda: os.open(away, os.O_RDONLY, dir_fd=fd),
                            lambda: os.open(f"/proc/self/fd/{fd}/{away}", os.O_RDONLY)):  # fmt: skip
                try:
                    leaks.append((fd, path, attempt()))
                except OSError:
                    pass
        for attempt in (os.fchdir, os.listdir, lambda fd: os.listdir(f"/proc/self/fd/{fd}/site-packages")):
            try:
                leaks.append((fd, str(attempt(fd))[:40]))
            except OSError:
                pass
    return {"answer": f"LEAK {leaks}" if leaks else "contained"}
