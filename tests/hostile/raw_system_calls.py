# Makes forbidden system calls by number, past libc.
# Expect: ok contained
# After: nothing changed
# Machine: x86_64

import ctypes
import errno

CALLS = {
    "socket": 41, "connect": 42, "sendmsg": 46, "bind": 49, "listen": 50, "fork": 57, "vfork": 58, "execve": 59,
    "shmget": 29, "semget": 64, "msgget": 68, "truncate": 76, "rename": 82, "mkdir": 83, "rmdir": 84, "creat": 85,
    "link": 86, "unlink": 87, "symlink": 88, "chmod": 90, "fchmod": 91, "chown": 92, "ptrace": 101, "setuid": 105,
    "setpgid": 109, "setsid": 112, "utime": 132, "mknod": 133, "personality": 135, "setpriority": 141,
    "sched_setscheduler": 144, "mlock": 149, "modify_ldt": 154, "pivot_root": 155, "chroot": 161, "mount": 165,
    "umount2": 166, "swapon": 167, "reboot": 169, "sethostname": 170, "init_module": 175, "tkill": 200,
    "setxattr": 188, "removexattr": 197, "sched_setaffinity": 203, "io_setup": 206, "mq_open": 240, "kexec_load": 246,
    "add_key": 248, "request_key": 249, "keyctl": 250, "inotify_init": 253, "mknodat": 259, "unshare": 272,
    "perf_event_open": 298, "fanotify_init": 300, "open_by_handle_at": 304, "setns": 308, "process_vm_readv": 310,
    "process_vm_writev": 311, "kcmp": 312, "finit_module": 313, "seccomp": 317, "memfd_create": 319, "bpf": 321,
    "execveat": 322, "userfaultfd": 323, "io_uring_setup": 425, "io_uring_enter": 426, "open_tree": 428,
    "fsopen": 430, "pidfd_open": 434, "clone3": 435, "openat2": 437, "pidfd_getfd": 438, "process_madvise": 440,
    "mount_setattr": 442, "landlock_create_ruleset": 444, "memfd_secret": 447,
}  # fmt: skip


def solver(agent, task):
    libc = ctypes.CDLL(None, use_errno=True)
    leaks = []
    for name, number in CALLS.items():
        ctypes.set_errno(0)
        result = libc.syscall(number, 0, 0, 0, 0, 0, 0)
        if result != -1 or ctypes.get_errno() not in (errno.EPERM, errno.ENOSYS):
            leaks.append((name, result, ctypes.get_errno()))
    return {"answer": f"LEAK {leaks}" if leaks else "contained"}
