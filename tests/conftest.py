"""Strict surroundings for every test: virtual devices, no rank promotion, no network beyond loopback."""

import os
import signal
import socket

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
    os.environ.pop(name, None)

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun in the background: Ctrl-C is to be tested all the same
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")

_connect = socket.socket.connect


@pytest.fixture(autouse=True)
def loopback_only(monkeypatch):
    """Refuses every connection that would leave the machine."""

    def connect(sock, address):
        if sock.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise PermissionError(f"a test tried to reach {address}")
        return _connect(sock, address)

    monkeypatch.setattr(socket.socket, "connect", connect)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """The folder and the runs that tests of entry points share; see `rlao_runs.Shared`."""
    from rlao_runs import Shared  # it knows the whole project, which most tests need not load

    return Shared(tmp_path_factory)
