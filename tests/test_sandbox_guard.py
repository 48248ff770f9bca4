"""The filter, by an interpreter of BPF written apart from it; and the choice of a back end."""

import errno
import os
import re
import shutil
import struct
from pathlib import Path

import pytest
from sandbox_host import opened

from w4s_jax.sandbox import isolation, open_sandbox
from w4s_jax.sandbox.child import seccomp
from w4s_jax.types import InputError

ALLOW, KILL, EPERM, ENOSYS = "allow", "kill", errno.EPERM, errno.ENOSYS
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
HEADERS = {
    "x86_64": Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h"),
    "aarch64": Path("/usr/include/asm-generic/unistd.h"),
}


def verdict(program, number, *args, arch):
    """Runs a classic BPF program over one system call, by the kernel's documentation."""
    data = struct.pack("=iIQ6Q", number, arch, 0, *(a & (1 << 64) - 1 for a in (*args, *[0] * (6 - len(args)))))
    accumulator, counter = 0, 0
    while True:
        code, if_true, if_false, k = struct.unpack_from("=HBBI", program, 8 * counter)
        counter += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, k)
        elif code == 0x54:
            accumulator &= k
        elif code in (0x15, 0x35, 0x45):
            holds = {0x15: accumulator == k, 0x35: accumulator >= k, 0x45: bool(accumulator & k)}[code]
            counter += if_true if holds else if_false
        else:
            assert code == 0x06
            return {0x7FFF0000: ALLOW, 0x80000000: KILL}.get(k, k & 0xFFFF)


@pytest.fixture(params=ARCHITECTURES)
def ask(request, monkeypatch):
    """`ask(name, *args)`: what the filter of one architecture says to a call."""
    machine = request.param
    header = HEADERS[machine]
    if not header.exists():
        pytest.skip(f"{header} is not installed")
    names = {"newfstatat": 79} if machine == "aarch64" else {}
    names |= {
        name: int(number)
        for name, number in re.findall(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)", header.read_text(), re.MULTILINE)
    }
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "", "", "", machine)))
    program = seccomp.build().replace(struct.pack("=I", seccomp._OWN_PID), struct.pack("=I", 4242))
    return lambda name, *args: verdict(program, names[name], *args, arch=ARCHITECTURES[machine])


def test_the_filter_allows_computing(ask):
    for name in ("read", "write", "mmap", "futex", "exit_group", "openat", "newfstatat", "getrandom", "epoll_pwait"):
        assert ask(name) == ALLOW, name


def test_the_filter_denies_what_landlock_does_not_cover_and_what_leaves_the_process(ask):
    names = """execve execveat socket connect bind sendmsg ptrace process_vm_readv fchmodat fchownat utimensat setxattr
        unshare setns mount keyctl add_key io_uring_setup bpf perf_event_open userfaultfd memfd_create pidfd_getfd
        open_by_handle_at setuid setresuid personality seccomp kcmp sched_setscheduler setpriority shmget mknodat
        unlinkat renameat2 pidfd_send_signal readlinkat""".split()
    for name in names:
        assert ask(name) == EPERM, name


def test_calls_whose_arguments_cannot_be_read_are_missing(ask):
    assert ask("clone3") == ENOSYS
    assert ask("openat2") == ENOSYS
    assert ask("listxattr") == ask("llistxattr") == ask("flistxattr") == errno.ENOTSUP


def test_clone_makes_threads_and_nothing_else(ask):
    thread = 0x003D0F00  # what glibc passes for a thread
    assert ask("clone", thread) == ALLOW
    assert ask("clone", thread & ~0x400) == EPERM  # a table of descriptors of its own
    assert ask("clone", 17) == EPERM
    for space in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000):
        assert ask("clone", thread | space) == EPERM


def test_signals_and_limits_reach_oneself_only(ask):
    assert ask("kill", 4242, 9) == ALLOW
    assert ask("tgkill", 4242, 4243, 6) == ALLOW
    assert ask("prlimit64", 0) == ALLOW
    for pid in (1, 4241, 0, -1, -4242):
        assert ask("kill", pid, 9) == EPERM
        assert ask("tgkill", pid, 1, 9) == EPERM
    assert ask("prlimit64", 1) == EPERM


def test_only_a_stream_pair_within_the_process_and_only_without_an_address(ask):
    assert ask("socketpair", 1, 1 | 0o2000000, 0) == ALLOW
    assert ask("socketpair", 1, 2, 0) == EPERM
    assert ask("socketpair", 2, 1, 0) == EPERM
    assert ask("socketpair", 1, 1, 1) == EPERM
    assert ask("sendto", 3, 0, 0, 0, 0) == ALLOW
    assert ask("sendto", 3, 0, 0, 0, 1 << 40) == EPERM
    assert ask("sendto", 3, 0, 0, 0, 8) == EPERM


def test_options_that_take_the_guard_off_or_signal_others_are_denied(ask):
    assert ask("prctl", 15) == ALLOW
    for option in (1, 4, 8, 22, 23, 24, 38):
        assert ask("prctl", option) == EPERM
    assert ask("fcntl", 3, 3) == ALLOW
    for command in (8, 10, 15, 1024, 1026):
        assert ask("fcntl", 3, command) == EPERM
    assert ask("ioctl", 3, 0x5421) == ALLOW
    assert ask("ioctl", 3, 0x5412) == EPERM


def test_no_second_table_of_descriptors_is_made(ask):
    assert ask("close_range", 3, 9, 0) == ask("close_range", 3, 9, 4) == ALLOW
    assert ask("close_range", 3, 9, 2) == ask("close_range", 3, 9, 6) == EPERM


def test_futexes_wake_nobody_outside_the_process(ask):
    for command in range(14):
        for clock in (0, 256):
            assert ask("futex", 4096, command | 128 | clock) == ALLOW
            assert ask("futex", 4096, command | clock) == (ALLOW if command in (0, 9) else EPERM)


def test_clocks_are_the_machines_or_ones_own(ask):
    for name in ("clock_gettime", "clock_getres", "clock_nanosleep"):
        assert {ask(name, clock) for clock in range(12)} == {ALLOW}
        for clock in (12, (1 << 32) - 6, ~4242 << 3 | 2):
            assert ask(name, clock) == EPERM
    assert ask("timer_create", 0) == EPERM


def test_another_architecture_or_numbering_is_killed():
    if os.uname().machine not in ARCHITECTURES:
        pytest.skip("no table for this machine")
    program = seccomp.build()
    assert verdict(program, 20, arch=0x40000003) == KILL
    if os.uname().machine == "x86_64":
        assert verdict(program, 0x40000000 | 57, arch=ARCHITECTURES["x86_64"]) == KILL


# --- choosing a back end


async def test_an_unknown_back_end_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"sandbox='docker' is unknown; allowed: auto, bwrap, guard, process"):
        async with open_sandbox("docker"):
            pass


async def test_a_package_that_is_not_installed_is_refused_with_the_remedy():
    with pytest.raises(InputError, match="'no-such-package' is not installed"):
        async with open_sandbox("guard", packages=("no-such-package",)):
            pass


async def test_process_is_refused_beside_a_key_unless_allowed_and_says_what_it_does_not_stop(monkeypatch, capsys):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-x")
    with pytest.raises(InputError, match=r"OPENAI_API_KEY in the environment.*--allow_unsafe_sandbox"):
        async with open_sandbox("process", packages=()):
            pass
    async with open_sandbox("process", packages=(), allow_unsafe=True) as pool:
        assert pool.name == "process"
    assert "can read every file you can read" in capsys.readouterr().err


async def test_without_bwrap_auto_takes_the_guard_and_bwrap_names_the_line_that_installs_it(monkeypatch):
    real = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "bwrap" else real(name))
    with pytest.raises(InputError, match="apt-get install -y bubblewrap"):
        async with open_sandbox("bwrap", packages=()):
            pass
    try:
        async with open_sandbox("auto", packages=()) as pool:
            assert pool.name == "guard"
    except InputError as error:
        pytest.skip(str(error))


async def test_auto_never_takes_process(monkeypatch):
    def recipe(name, packages):
        raise InputError(f"{name} is broken")

    monkeypatch.setattr(isolation, "recipe", recipe)
    with pytest.raises(InputError, match="bwrap is broken; guard is broken; remedy"):
        async with open_sandbox("auto", packages=()):
            pass


@pytest.mark.parametrize("name", ["guard", "bwrap", "process"])
async def test_a_sandbox_says_what_each_child_puts_on(name):
    async with opened(name, packages=()) as pool:
        assert "limits" in pool.layers
        guarded = {layer.partition(" (")[0] for layer in pool.layers} - {"limits", "a user id of its own"}
    assert guarded == (set() if name == "process" else {"no capabilities", "no_new_privs", "Landlock", "seccomp"})


async def test_a_layer_that_does_not_hold_is_found_at_the_start(monkeypatch):
    whole = isolation.recipe("guard", ())
    readable = {**whole.config, "read_only": [*whole.config["read_only"], "/etc"]}
    monkeypatch.setattr(isolation, "recipe", lambda *_: isolation.Recipe(name="guard", config=readable))
    with pytest.raises(InputError, match="landlock"):
        async with open_sandbox("guard", packages=()):
            pass


def test_keys_are_known_by_their_names():
    environment = {"OPENAI_API_KEY": "x", "HF_TOKEN": "y", "ANTHROPIC_API_KEY": "", "HOME": "/", "MONKEY": "z"}
    assert isolation.secrets_in(environment) == ["HF_TOKEN", "OPENAI_API_KEY"]
