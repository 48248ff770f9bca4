# Takes a descriptor of the pool's process from its own socket and acts through it.
# Expect: ok contained
# After: the pool lives
# Machine: x86_64

import ctypes
import socket

SO_PEERPIDFD = 77


def solver(agent, task):
    libc = ctypes.CDLL(None)
    channel = socket.socket(fileno=agent._channel._fd)
    try:
        pool = channel.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    except OSError:
        return {"answer": "contained"}  # an older kernel
    finally:
        channel.detach()
    calls = {"send_signal": (424, pool, 0, 0, 0), "getfd": (438, pool, 0, 0), "setns": (308, pool, 0x20000000),
             "process_madvise": (440, pool, 0, 0, 21, 0), "waitid": (247, 3, pool, 0, 4, 0)}  # fmt: skip
    leaks = [name for name, call in calls.items() if libc.syscall(*call) >= 0]
    return {"answer": f"LEAK {leaks}" if leaks else "contained"}
