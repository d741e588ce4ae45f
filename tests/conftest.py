"""One seed per test, one thread, no network; poisoned memory for tests of operators."""

import atexit
import ctypes
import gc
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
import torch
from browsing import browser, page, site  # noqa: F401

torch.set_num_threads(1)
# a shell starts background jobs with Ctrl-C ignored
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Look for no garbage while thousands of tests are made, nor among them and what they imported afterwards."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        # libraries count what is left at the end
        atexit.register(gc.unfreeze)
        gc.enable()


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _no_flush():
    """Do not wait for the disk, seconds for each checkpoint where others write: no test survives a power failure."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(autouse=True, scope="module")
def _freed_memory():
    """Hand back the memory that the tests of a file have freed: after a ``fit`` the allocator keeps it, gigabytes."""
    yield
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    """A test that downloads is a broken test: say so instead of waiting for a time-out."""

    def refuse(self, address):
        if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "localhost", "::1"):
            raise OSError(f"tests must not use the network, tried {address}")
        return connect(self, address)

    connect = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def original_rates(monkeypatch):
    """Round the parameters of state spaces to float32 whatever the module is in, as state-spaces/mamba does."""
    monkeypatch.setattr("seqmix.mixers.ssm.wide", torch.Tensor.float)
    for name in ("ssm", "mamba2", "hydra", "quasiseparable"):
        monkeypatch.setattr(f"seqmix.mixers.{name}.rates", lambda A_log: -A_log.float().exp())


@pytest.fixture
def real_data():
    """The folder of a real data set in ``$SEQMIX_DATA``, which may hold some sets and not others."""

    def folder(name: str) -> Path:
        found = Path(os.environ.get("SEQMIX_DATA", ""), name)
        if "SEQMIX_DATA" not in os.environ or not found.exists():
            pytest.skip(f"needs {name} in the folder $SEQMIX_DATA")
        return found

    return folder


@pytest.fixture
def nan_empty(monkeypatch):
    """Fill ``torch.empty`` and ``empty_like`` with NaN, so that a kernel that leaves an element unwritten fails."""
    empty, empty_like = torch.empty, torch.empty_like

    def poison(x):
        return x.fill_(float("nan")) if x.is_floating_point() else x

    monkeypatch.setattr(torch, "empty", lambda *a, **k: poison(empty(*a, **k)))
    monkeypatch.setattr(torch, "empty_like", lambda *a, **k: poison(empty_like(*a, **k)))
