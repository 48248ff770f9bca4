# Prints and writes megabytes to every standard stream.
# Expect: ok contained
# After: nothing printed
# Enough: limits

import os
import sys


def solver(agent, task):
    for _ in range(200):
        print("x" * 100_000)
        sys.stderr.write("x" * 100_000)
        for fd in (1, 2):
            try:
                os.write(fd, b"LEAK" * 10_000)
            except OSError:
                pass
    return {"answer": "contained"}
