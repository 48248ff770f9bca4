# Starts threads for ever.
# Expect: ok contained | limit
# After: no process

import threading
import time


def solver(agent, task):
    started = 0
    try:
        while started < 5000:
            threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
            started += 1
    except RuntimeError:
        pass
    return {"answer": "contained" if started < 1000 else f"LEAK {started}"}
