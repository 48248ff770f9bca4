# Computes in a thread while the wall clock stands still.
# Expect: ok contained
# After: no process
# Enough: limits

import threading
import time


def _burn():
    while True:
        pass


def solver(agent, task):
    threading.Thread(target=_burn, daemon=True).start()
    before = time.process_time()
    agent.call_llm("slow")
    used = time.process_time() - before
    return {"answer": f"LEAK {used:.2f} s" if used > 0.5 else "contained"}
