# Reads symbolic links, whose text is data like that of a file.
# Expect: ok contained
# After: nothing

import os


def solver(agent, task):
    leaks = []
    for path in ("/proc/self/exe", "/proc/self/cwd", "/bin", "/lib", "/usr/bin/awk", "/dev/stdin"):
        try:
            leaks.append((path, os.readlink(path)))
        except OSError:
            pass
    return {"answer": f"LEAK {leaks}" if leaks else "contained"}
