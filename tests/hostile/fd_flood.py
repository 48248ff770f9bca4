# Opens descriptors for ever.
# Expect: ok contained
# After: no process
# Enough: limits

import os


def solver(agent, task):
    opened = 0
    try:
        while opened < 100_000:
            os.pipe()
            opened += 2
    except OSError:
        return {"answer": "contained" if opened < 200 else f"LEAK {opened}"}
    return {"answer": "LEAK"}
