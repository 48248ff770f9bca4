# Ends its main thread alone: the process is half dead, and its socket stays open.
# Expect: timeout
# After: no process
# Wall: 0.5
# Enough: limits

import ctypes
import os
import threading
import time


def solver(agent, task):
    threading.Thread(target=time.sleep, args=(1000,)).start()
    ctypes.CDLL(None).syscall({"x86_64": 60, "aarch64": 93}[os.uname().machine], 0)
