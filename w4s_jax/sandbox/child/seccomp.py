"""The system-call filter: an allow-list for a Python that computes, built as BPF by hand.

zygote ─ build() once ─ child ─ install(program, own pid) ─ user code

Everything that is not named answers EPERM; `clone3` and `openat2`, whose arguments a
filter cannot read, answer ENOSYS so that libc takes the older call, and lists of extended
attributes ENOTSUP, which `shutil` takes for none. `kill`, `tgkill`
and `prlimit64` are allowed towards oneself only: the pid is patched in after the fork.
Numbers are from the kernel's `asm/unistd_64.h` and `asm-generic/unistd.h`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from .libc import prctl

_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_BITS, _AND, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x54, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_OFFSET_NUMBER, _OFFSET_ARCH, _OFFSET_ARGS = 0, 4, 16
_OWN_PID = 0x5AFE5AFE
"""Stands in the prepared program where the child's pid belongs."""
_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_CLONE_FILES, _CLONE_THREAD, _CLONE_NEW_ANY = 0x00000400, 0x00010000, 0x7E020000
_FUTEX_PRIVATE, _FUTEX_COMMAND, _FUTEX_WAIT, _FUTEX_WAIT_BITSET = 128, 127, 0, 9
_CLOCKS = 12
"""Clocks of the machine and of oneself have ids below it; those of other processes are negative."""
_X32_BIT = 0x40000000
_GROUP = 12

# name: (x86-64, arm64); -1 where the architecture lacks the call.
_ALLOWED: dict[str, tuple[int, int]] = {
    # descriptors that are open already, and opening (which Landlock judges)
    "read": (0, 63), "write": (1, 64), "readv": (19, 65), "writev": (20, 66), "pread64": (17, 67),
    "preadv": (295, 69), "close": (3, 57), "lseek": (8, 62), "dup": (32, 23),
    "dup2": (33, -1), "dup3": (292, 24), "open": (2, -1), "openat": (257, 56), "getdents": (78, -1),
    "getdents64": (217, 61), "fstat": (5, 80), "stat": (4, -1), "lstat": (6, -1), "newfstatat": (262, 79),
    "statx": (332, 291), "access": (21, -1),
    "faccessat": (269, 48), "faccessat2": (439, 439), "getcwd": (79, 17),
    # memory
    "mmap": (9, 222), "mprotect": (10, 226), "munmap": (11, 215), "brk": (12, 214), "mremap": (25, 216),
    "madvise": (28, 233), "msync": (26, 227), "mincore": (27, 232), "membarrier": (324, 283),
    # own signals, waiting, time
    "rt_sigaction": (13, 134), "rt_sigprocmask": (14, 135), "rt_sigreturn": (15, 139), "rt_sigpending": (127, 136),
    "rt_sigtimedwait": (128, 137), "rt_sigsuspend": (130, 133), "sigaltstack": (131, 132), "pause": (34, -1),
    "restart_syscall": (219, 128), "nanosleep": (35, 101),
    "gettimeofday": (96, 169), "time": (201, -1), "times": (100, 153), "setitimer": (38, 103),
    "getitimer": (36, 102), "alarm": (37, -1),
    "pipe": (22, -1), "pipe2": (293, 59), "poll": (7, -1), "ppoll": (271, 73), "select": (23, -1),
    "pselect6": (270, 72), "epoll_create": (213, -1), "epoll_create1": (291, 20), "epoll_ctl": (233, 21),
    "epoll_wait": (232, -1), "epoll_pwait": (281, 22), "eventfd": (284, -1), "eventfd2": (290, 19),
    # threads and ending
    "set_robust_list": (273, 99), "rseq": (334, 293), "sched_yield": (24, 124),
    "sched_getaffinity": (204, 123), "sched_getparam": (143, 121), "sched_getscheduler": (145, 120),
    "sched_get_priority_max": (146, 125), "sched_get_priority_min": (147, 126), "getcpu": (309, 168),
    "wait4": (61, 260), "waitid": (247, 95), "exit": (60, 93), "exit_group": (231, 94),
    # facts about oneself and the machine
    "getpid": (39, 172), "gettid": (186, 178), "getppid": (110, 173), "getuid": (102, 174), "geteuid": (107, 175),
    "getgid": (104, 176), "getegid": (108, 177), "getresuid": (118, 148), "getresgid": (120, 150),
    "getgroups": (115, 158), "getpgrp": (111, -1), "getpgid": (121, 155), "getsid": (124, 156), "capget": (125, 90),
    "getpriority": (140, 141), "getrandom": (318, 278), "uname": (63, 160), "sysinfo": (99, 179),
    "getrusage": (98, 165), "getrlimit": (97, 163), "setrlimit": (160, 164),
    # the two ends of an own socket pair, for asyncio
    "recvfrom": (45, 207), "getsockname": (51, 204), "getpeername": (52, 205), "getsockopt": (55, 209),
    "shutdown": (48, 210),
}  # fmt: skip

# Where there is a folder to write to: nothing else is mounted so that it could be changed.
_ON_FILES: dict[str, tuple[int, int]] = {
    "mkdir": (83, -1), "mkdirat": (258, 34), "rmdir": (84, -1), "unlink": (87, -1), "unlinkat": (263, 35),
    "rename": (82, -1), "renameat": (264, 38), "renameat2": (316, 276), "creat": (85, -1), "truncate": (76, 45),
    "ftruncate": (77, 46), "fallocate": (285, 47), "fsync": (74, 82), "fdatasync": (75, 83), "flock": (73, 32),
    "pwrite64": (18, 68), "pwritev": (296, 70), "sendfile": (40, 71), "copy_file_range": (326, 285),
    "chdir": (80, 49), "fchdir": (81, 50), "chmod": (90, -1), "fchmod": (91, 52), "fchmodat": (268, 53),
    "utime": (132, -1), "utimes": (235, -1), "utimensat": (280, 88),
}  # fmt: skip

# name: (numbers, what it answers in place of EPERM)
_ANSWERED: dict[str, tuple[tuple[int, int], int]] = {
    "clone3": ((435, 435), errno.ENOSYS), "openat2": ((437, 437), errno.ENOSYS),
    "listxattr": ((194, 11), errno.ENOTSUP), "llistxattr": ((195, 12), errno.ENOTSUP),
    "flistxattr": ((196, 13), errno.ENOTSUP),
}  # fmt: skip

# name: (numbers, argument, values it may have)
_BY_ARGUMENT: dict[str, tuple[tuple[int, int], int, tuple[int, ...]]] = {
    "kill": ((62, 129), 0, (_OWN_PID,)),
    "tgkill": ((234, 131), 0, (_OWN_PID,)),
    "prlimit64": ((302, 261), 0, (0, _OWN_PID)),
    # PR_GET_DUMPABLE, PR_SET_NAME, PR_GET_NAME, PR_GET_SECCOMP, PR_GET_NO_NEW_PRIVS, PR_SET_VMA
    "prctl": ((157, 167), 0, (3, 15, 16, 21, 39, 0x53564D41)),
    # no flag, CLOSE_RANGE_CLOEXEC; not CLOSE_RANGE_UNSHARE, which makes a second table of descriptors
    "close_range": ((436, 436), 2, (0, 4)),
    # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC; not F_SETOWN, which sends signals
    "fcntl": ((72, 25), 1, (0, 1, 2, 3, 4, 1030)),
    # TCGETS, TIOCGWINSZ, FIONREAD, FIONBIO, FIONCLEX, FIOCLEX
    "ioctl": ((16, 29), 1, (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)),
}

_FILE_LOCKS = (5, 6, 7)
"""Commands of `fcntl` that lock files, as SQLite does."""

_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def build(*, files: bool = False) -> bytes:
    """The program for this machine, with a placeholder for the child's pid.

    Args:
        files: Allow making, changing and removing them, where nothing but a scratch folder can be written.

    Raises:
        OSError: This architecture has no table.
    """
    machine = os.uname().machine
    if machine not in _ARCHITECTURES:
        raise OSError(f"no system-call table for {machine}; allowed: {', '.join(_ARCHITECTURES)}")
    column, arch = _ARCHITECTURES[machine]
    program = [_op(_LOAD, _OFFSET_ARCH), _op(_JUMP_EQUAL, arch, 1, 0), _op(_RETURN, _KILL), _op(_LOAD, _OFFSET_NUMBER)]
    if column == 0:
        program += [_op(_JUMP_AT_LEAST, _X32_BIT, 0, 1), _op(_RETURN, _KILL)]
    for numbers, answer in _ANSWERED.values():
        program += _when(numbers[column], [_op(_RETURN, _ERRNO | answer)])
    for name, (numbers, argument, values) in _BY_ARGUMENT.items():
        locks = _FILE_LOCKS if files and name == "fcntl" else ()
        program += _when(numbers[column], _argument_in(argument, (*values, *locks)))
    for numbers in ((228, 113), (229, 114), (230, 115)):  # clock_gettime, clock_getres, clock_nanosleep
        program += _when(numbers[column], _own_clocks())
    program += _when((202, 98)[column], _futex())
    program += _when((56, 220)[column], _threads_only())
    program += _when((53, 199)[column], _unix_stream_pair())
    program += _when((44, 206)[column], _no_address(4))
    allowed = [*_ALLOWED.values(), *(_ON_FILES.values() if files else ())]
    program += _allow_list(sorted(numbers[column] for numbers in allowed if numbers[column] >= 0))
    return b"".join([*program, _deny()])


def install(program: bytes) -> None:
    """Puts the filter on the calling thread and all its later threads, for ever.

    Raises:
        OSError: The kernel refused it.
    """
    program = program.replace(struct.pack("=I", _OWN_PID), struct.pack("=I", os.getpid()))
    prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(_Program(len(program) // 8, program)))


def _op(code: int, k: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, k)


def _deny() -> bytes:
    return _op(_RETURN, _ERRNO | errno.EPERM)


def _when(number: int, block: list[bytes]) -> list[bytes]:
    """`block` for one system call; nothing where the architecture lacks it. A block ends in a return."""
    return [_op(_JUMP_EQUAL, number, 0, len(block)), *block] if number >= 0 else []


def _allow_list(numbers: list[int]) -> list[bytes]:
    """Allows sorted numbers, in groups that are skipped whole.

    The kernel tries every system call once when it installs a filter, so the length of the
    path through it is a cost of each child.
    """
    program = []
    for start in range(0, len(numbers), _GROUP):
        group = numbers[start : start + _GROUP]
        program.append(_op(_JUMP_AT_LEAST, group[-1] + 1, len(group) + 2, 0))
        program += [_op(_JUMP_EQUAL, number, len(group) - i, 0) for i, number in enumerate(group)]
        program += [_deny(), _op(_RETURN, _ALLOW)]
    return program


def _low(argument: int) -> bytes:
    return _op(_LOAD, _OFFSET_ARGS + 8 * argument)


def _high(argument: int) -> bytes:
    return _op(_LOAD, _OFFSET_ARGS + 8 * argument + 4)


def _argument_in(argument: int, values: tuple[int, ...]) -> list[bytes]:
    """Allows the call where a 32-bit argument is one of `values`."""
    tests = [op for value in values for op in (_op(_JUMP_EQUAL, value, 0, 1), _op(_RETURN, _ALLOW))]
    return [_low(argument), *tests, _deny()]


def _threads_only() -> list[bytes]:
    """`clone` with CLONE_THREAD and the same table of descriptors, without any new namespace."""
    return [
        _low(0),
        _op(_JUMP_BITS, _CLONE_NEW_ANY, 3, 0),
        _op(_JUMP_BITS, _CLONE_THREAD, 0, 2),
        _op(_JUMP_BITS, _CLONE_FILES, 0, 1),
        _op(_RETURN, _ALLOW),
        _deny(),
    ]


def _own_clocks() -> list[bytes]:
    """A clock that is not of another process."""
    return [_low(0), _op(_JUMP_AT_LEAST, _CLOCKS, 1, 0), _op(_RETURN, _ALLOW), _deny()]


def _futex() -> list[bytes]:
    """A futex of this process, or a wait: to wake by a page that others map, too, would be a channel to them."""
    return [
        *(_low(1), _op(_JUMP_BITS, _FUTEX_PRIVATE, 3, 0), _op(_AND, _FUTEX_COMMAND)),
        *(_op(_JUMP_EQUAL, _FUTEX_WAIT, 1, 0), _op(_JUMP_EQUAL, _FUTEX_WAIT_BITSET, 0, 1)),
        *(_op(_RETURN, _ALLOW), _deny()),
    ]


def _unix_stream_pair() -> list[bytes]:
    """`socketpair(AF_UNIX, SOCK_STREAM, 0)`: reaches nobody, and asyncio needs it to wake up."""
    return [
        *(_low(0), _op(_JUMP_EQUAL, 1, 0, 6)),
        *(_low(1), _op(_AND, 0xF), _op(_JUMP_EQUAL, 1, 0, 3)),
        *(_low(2), _op(_JUMP_EQUAL, 0, 0, 1)),
        *(_op(_RETURN, _ALLOW), _deny()),
    ]


def _no_address(argument: int) -> list[bytes]:
    """`sendto` without an address is `send` on a connected socket."""
    return [
        *(_low(argument), _op(_JUMP_EQUAL, 0, 0, 3)),
        *(_high(argument), _op(_JUMP_EQUAL, 0, 0, 1)),
        *(_op(_RETURN, _ALLOW), _deny()),
    ]
