# Looks for the data of other items in what it inherited.
# Expect: ok contained
# After: nothing

import gc
import os


def solver(agent, task):
    seen = [fd for fd in range(3, 256) if fd != agent._channel._fd and _reads(fd)]
    texts = [o for o in gc.get_objects() if isinstance(o, dict) and any("w4s-state" in str(k) for k in o)]
    return {"answer": f"LEAK {seen} {texts}" if seen or texts else "contained"}


def _reads(fd):
    """Whether a descriptor is open for more than naming a folder of the library."""
    try:
        os.read(fd, 1)
    except OSError:
        return False
    return True
