# Leaves a mark for the next item wherever it can, and looks for one.
# Expect: ok contained
# After: no file, no mark
# Runs: 2

import builtins
import json
import os
import random
import sys


def solver(agent, task):
    folder = json.loads(task)["folder"]
    marked = [
        hasattr(builtins, "w4s_state"),
        hasattr(json, "w4s_state"),
        "w4s_state" in os.environ,
        "w4s_state" in sys.modules,
        hasattr(type(agent), "w4s_state"),
        getattr(random, "w4s_state", False),
    ]
    builtins.w4s_state = json.w4s_state = type(agent).w4s_state = random.w4s_state = True
    os.environ["w4s_state"] = "1"
    sys.modules["w4s_state"] = sys
    for path in (f"{folder}/w4s-state", "/tmp/w4s-state", "/dev/shm/w4s-state"):
        try:
            with open(path, "w"):
                marked.append(True)
        except OSError:
            pass
    return {"answer": f"LEAK {marked}" if any(marked) else "contained"}
