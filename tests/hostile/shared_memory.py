# Makes memory that other processes can attach to.
# Expect: ok contained
# After: no shared memory

from multiprocessing import shared_memory
import ctypes
import json


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
    libc = ctypes.CDLL(None, use_errno=True)

    def checked(result):
        if result < 0:
            raise OSError(ctypes.get_errno(), "denied")

    def posix():
        shared_memory.SharedMemory(name="w4s-state", create=True, size=16)

    def system_v():
        checked(libc.shmget(0x7734, 4096, 0o1666))

    def semaphore():
        checked(libc.semget(0x7734, 1, 0o1666))

    def queue():
        checked(libc.msgget(0x7734, 0o1666))

    return posix, system_v, semaphore, queue
