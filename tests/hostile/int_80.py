# Enters the kernel by the 32-bit gate, whose numbers mean other calls.
# Expect: limit
# After: no process
# Machine: x86_64

import ctypes
import mmap

FORK_BY_INT_80 = bytes([0xB8, 2, 0, 0, 0, 0xCD, 0x80, 0xC3])


def solver(agent, task):
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(FORK_BY_INT_80)
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    return {"answer": "LEAK"}
