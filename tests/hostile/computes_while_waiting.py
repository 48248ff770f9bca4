# Burns CPU in a thread while a call is outstanding and its wall clock stands still.
# Expect: limit
# After: no process

import threading


def spin():
    while True:
        pass


def solver(agent, task):
    threading.Thread(target=spin).start()
    for _ in range(10):  # on a busy machine, one wait may be too short to use up the CPU limit
        agent.call_llm("slow")
    return {"answer": "LEAK"}
