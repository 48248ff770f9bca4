# Burns CPU in a thread while a call is outstanding and its wall clock stands still.
# Expect: limit
# After: no process

import threading


def spin():
    while True:
        pass


def solver(agent, task):
    threading.Thread(target=spin).start()
    agent.call_llm("slow")
    return {"answer": "LEAK"}
