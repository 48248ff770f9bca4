# Opens devices, writes to the kernel's entropy, leaves a file among the devices.
# Expect: ok contained
# After: nothing changed

import glob
import os


def solver(agent, task):
    names = ["ptmx", "pts/0", "tty", "console", "kmsg", "mem", "kvm", "fuse", "vda", "sda", "loop0", "net/tun", "rtc0"]
    paths = [*(f"/dev/{name}" for name in names), *glob.glob("/dev/*/*")]
    leaks = [path for path in paths if _opens(path, os.O_RDONLY | os.O_NONBLOCK) and not path.startswith("/dev/fd/")]
    leaks += [path for path in ("/dev/urandom", "/dev/random") if _opens(path, os.O_WRONLY)]
    leaks += [path for path in ("/dev/w4s-x", "/dev/shm/w4s-x") if _opens(path, os.O_CREAT | os.O_RDWR)]
    return {"answer": f"LEAK {leaks}" if leaks else "contained"}


def _opens(path, flags):
    try:
        os.close(os.open(path, flags))
    except OSError:
        return False
    return True
