# Leaves a thread running after its result.
# Expect: ok done
# After: no process
# Enough: limits

import threading
import time


def solver(agent, task):
    threading.Thread(target=time.sleep, args=(1000,)).start()
    return {"answer": "done"}
