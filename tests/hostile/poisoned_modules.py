# Puts modules of its own where the next item would import them.
# Expect: ok contained
# After: no file; the next item imports the real ones
# Runs: 2

import sys
import types


def solver(agent, task):
    poisoned = any(hasattr(sys.modules.get(name), "w4s_poison") for name in ("json", "os", "numpy", "re"))
    for name in ("json", "os", "numpy", "re"):
        module = types.ModuleType(name)
        module.w4s_poison = True
        sys.modules[name] = module
    for path in ("json.py", "/tmp/json.py", f"{sys.path[0]}/json.py"):
        try:
            with open(path, "w") as file:
                file.write("raise SystemExit")
            poisoned = True
        except OSError:
            pass
    return {"answer": "LEAK" if poisoned else "contained"}
