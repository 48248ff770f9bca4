# Starts other programs in every way the library knows.
# Expect: ok contained
# After: no process

import json
import multiprocessing
import os
import pty
import subprocess


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
    def run():
        subprocess.run(["/bin/true"])

    def system():
        if os.system("true"):
            raise OSError

    def spawn():
        os.posix_spawn("/bin/true", ["true"], {})

    def execute():
        os.execv("/bin/true", ["true"])

    def terminal():
        pty.fork()

    def process():
        multiprocessing.get_context("fork").Process(target=print).start()

    return run, system, spawn, execute, terminal, process
