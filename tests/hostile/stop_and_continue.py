# Has one timer stop it and another continue it: no CPU limit, and its parent hears of every stop.
# Expect: timeout
# After: no process; the zygote still serves
# Wall: 0.5

import ctypes
import os
import signal
import struct
import time

CREATE, SET = {"x86_64": (222, 223), "aarch64": (107, 110)}[os.uname().machine]


def solver(agent, task):
    libc = ctypes.CDLL(None)
    signal.signal(signal.SIGCONT, lambda *_: None)  # a timer whose signal is ignored would not come again
    for number, nanoseconds in ((signal.SIGCONT, 20_000), (signal.SIGSTOP, 21_000)):
        timer = ctypes.c_int()
        libc.syscall(CREATE, 1, struct.pack("Qii48x", 0, number, 0), ctypes.byref(timer))
        libc.syscall(SET, timer.value, 0, struct.pack("4q", 0, nanoseconds, 0, nanoseconds), None)
    while True:
        time.sleep(1000)
