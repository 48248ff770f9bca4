"""What every child puts on before user code: limits, identity, Landlock, seccomp.

zygote ─ Guard(config) once ─ fork ─ guard.enter(limits) ─ runner

The expensive parts (the Landlock ruleset, the BPF program) are made once in the
zygote and inherited. Without `guarded` only the limits are set: the `process` back end.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import struct
import sys
from typing import Any, NamedTuple

from . import landlock, seccomp
from .libc import check, libc, prctl

MAX_FILES = 64
MAX_THREADS = 36
"""Python's own thread pools start at most 32."""
MAX_QUEUED_SIGNALS = 128
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_CAPABILITY_VERSION_3 = 0x20080522
_WITHOUT_SYS_ADMIN = (~(1 << 21) & 0xFFFFFFFF,) * 3 + (0xFFFFFFFF,) * 3
"""Effective, permitted and inheritable capabilities 0 to 31, then 32 to 63, but for number 21."""
_MS_NOSUID, _MS_NODEV, _MS_REMOUNT = 2, 4, 32
_PAGE, _FEWEST_FILES = 4096, 64
DEVICES = ("/dev/null", "/dev/zero", "/dev/full")
RANDOM_DEVICES = ("/dev/urandom", "/dev/random")


class ChildLimits(NamedTuple):
    """Limits of one child, as the pool sends them."""

    cpu_seconds: int
    memory_bytes: int
    output_bytes: int


class Guard:
    """The layers that this zygote's children put on."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Prepares the layers.

        Args:
            config: `guarded`, `read_only` paths, `uid_base` and `uid_count`, None where we are not root, and
                `scratch`, the folder that may be written to with its size in bytes, or None.

        Raises:
            OSError: The kernel lacks a layer.
        """
        self.guarded = bool(config["guarded"])
        self.uid_base: int | None = config["uid_base"]
        self.uid_count = int(config["uid_count"])
        scratch = config["scratch"]
        self._scratch: str | None = scratch[0] if scratch else None
        self.file_bytes: int = scratch[1] if scratch else 0
        self._ruleset = -1
        self._program = b""
        if self.guarded:
            self._program = seccomp.build(files=self._scratch is not None)
            libc().prctl, libc().capset  # bound before the fork
            self._ruleset = landlock.prepare((*config["read_only"], *RANDOM_DEVICES), DEVICES, self._scratch)

    @property
    def layers(self) -> list[str]:
        """What each child puts on, in a few words each."""
        if not self.guarded:
            return ["limits"]
        return [
            *(["a user id of its own"] if self.uid_base is not None else []),
            "limits",
            "no capabilities",
            "no_new_privs",
            f"Landlock (ABI {landlock.abi()})",
            f"seccomp ({os.uname().machine})",
        ]

    def enter(self, limits: ChildLimits, child_id: int, zygote: int, keep: set[int]) -> None:
        """Guards the calling process for ever.

        Args:
            limits: What the child may use.
            child_id: Chooses the child's own user id.
            zygote: Pid of the parent process, whose death is ours.
            keep: Descriptors that stay open.

        Raises:
            OSError: A layer could not be put on; no user code may run.
        """
        os.setsid()
        if self._scratch:
            os.chdir(self._scratch)
        own_uid = self.guarded and self.uid_base is not None
        set_limits(limits, own_uid, self.file_bytes)
        if own_uid and self.uid_base is not None:
            _become(self.uid_base + child_id % self.uid_count)
        if sys.platform == "linux":
            _die_with(zygote)
        if self.guarded:
            _drop_capabilities()
            prctl(_PR_SET_NO_NEW_PRIVS, 1)
            prctl(_PR_SET_DUMPABLE, 0)
            landlock.enforce(self._ruleset)
        close_all_but(keep)
        if self.guarded:
            seccomp.install(self._program)


def set_limits(limits: ChildLimits, own_uid: bool, file_bytes: int) -> None:
    """Sets the limits of resources; the limit of threads only where the user id is our own."""
    wanted = {
        resource.RLIMIT_CPU: (limits.cpu_seconds, limits.cpu_seconds + 1),
        resource.RLIMIT_AS: (limits.memory_bytes,) * 2,
        resource.RLIMIT_FSIZE: (file_bytes,) * 2,
        resource.RLIMIT_CORE: (0, 0),
        resource.RLIMIT_NOFILE: (MAX_FILES,) * 2,
    }
    if hasattr(resource, "RLIMIT_SIGPENDING"):
        wanted[resource.RLIMIT_SIGPENDING] = (MAX_QUEUED_SIGNALS,) * 2
    if own_uid:
        wanted[resource.RLIMIT_NPROC] = (MAX_THREADS,) * 2
    for name in ("RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE", "RLIMIT_RTPRIO", "RLIMIT_NICE"):
        if hasattr(resource, name):
            wanted[getattr(resource, name)] = (0, 0)
    for kind, (soft, hard) in wanted.items():
        _, most = resource.getrlimit(kind)
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(kind, (soft, hard))


def bound_files(scratch: str, size: int) -> None:
    """Lets a tmpfs hold no more files than it has pages, and gives up the right to mount.

    bwrap bounds its bytes alone, and an empty file or folder holds a kilobyte of the kernel's.

    Args:
        scratch: Where it is mounted.
        size: bytes.

    Raises:
        OSError: The kernel refused.
    """
    options = f"size={size},nr_inodes={max(_FEWEST_FILES, size // _PAGE)},mode=0777".encode()
    flags = ctypes.c_ulong(_MS_REMOUNT | _MS_NOSUID | _MS_NODEV)
    check(libc().mount(None, scratch.encode(), None, flags, options), f"mount {scratch}")
    header, held = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), ctypes.create_string_buffer(24)
    check(libc().capget(header, held), "capget")
    kept = [bits & mask for bits, mask in zip(struct.unpack("=6I", held), _WITHOUT_SYS_ADMIN, strict=True)]
    check(libc().capset(header, struct.pack("=6I", *kept)), "capset")


def close_all_but(keep: set[int]) -> None:
    """Closes every descriptor from 3 on that is not kept."""
    low = 3
    for fd in sorted(keep):
        os.closerange(low, max(low, fd))
        low = fd + 1
    os.closerange(low, 1 << 20)


def _become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def _die_with(zygote: int) -> None:
    """Set after the change of user id, which clears it; the check closes the race with a zygote already dead."""
    prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != zygote:
        os._exit(1)


def _drop_capabilities() -> None:
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    check(libc().capset(header, bytes(24)), "capset")
