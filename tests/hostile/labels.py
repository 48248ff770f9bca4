# Reads the labels, whose path it knows.
# Expect: ok contained
# After: the label is not in the answer

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
    def read():
        with open(host["label"]) as file:
            file.read()

    def listing():
        os.listdir(host["folder"])

    def by_handle():
        os.open(host["label"], os.O_RDONLY | os.O_NOFOLLOW)

    def from_a_known_folder():
        folder = os.open(os.path.dirname(os.__file__), os.O_PATH)
        os.open("../" * 20 + host["label"].lstrip("/"), os.O_RDONLY, dir_fd=folder)

    return read, listing, by_handle, from_a_known_folder
