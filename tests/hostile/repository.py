# Reads the repository and imports the project.
# Expect: ok contained
# After: nothing of the project is in the answer

import importlib
import json
import os
import sys


def solver(agent, task):
    host = json.loads(task)
    leaks = []
    for attempt in attempts(host):
        try:
            attempt()
        except (OSError, ImportError):
            continue
        leaks.append(attempt.__name__)
    return {"answer": f"LEAK {leaks}" if leaks else "contained"}


def attempts(host):
    def listing():
        os.listdir(host["repository"])

    def source():
        with open(os.path.join(host["repository"], "w4s_jax", "types.py")) as file:
            file.read()

    def graders():
        importlib.import_module("w4s_jax.tasks.math")

    def graders_by_path():
        sys.path.insert(0, host["repository"])
        importlib.invalidate_caches()
        importlib.import_module("w4s_jax.types")

    def guard():
        import child.guard

        with open(child.guard.__file__) as file:
            file.read()

    return listing, source, graders, graders_by_path, guard
