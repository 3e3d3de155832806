"""Importing rlvr_lib alone makes the training libraries importable, and nothing touches the network while importing."""

import os
import platform
import subprocess
import sys

import pytest

from rlvr_lib.artifacts import ROOT

# Python sockets to anything but this machine fail; put on PYTHONPATH, every Python process below obeys it.
SITECUSTOMIZE = """
import socket

_connect, _lookup = socket.socket.connect, socket.getaddrinfo
_LOCAL = ("127.", "::1", "localhost", "0.0.0.0")


def _is_local(host):
    host = host.decode() if isinstance(host, bytes) else host
    return host in (None, "") or str(host).startswith(_LOCAL)


def connect(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and not _is_local(address[0]):
        raise PermissionError(f"network use: {address}")
    return _connect(self, address)


def lookup(host, *arguments, **named):
    if not _is_local(host) and host != socket.gethostname():
        raise PermissionError(f"network use: {host}")
    return _lookup(host, *arguments, **named)


socket.socket.connect, socket.getaddrinfo = connect, lookup
"""


def offline_environment(folder) -> dict[str, str]:
    """An environment in which Python reaches nothing but the loopback interface."""
    (folder / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return {**os.environ, "PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}


def python(code: str, environment: dict[str, str]) -> str:
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_a_fresh_process_imports_the_training_libraries():
    code = (
        "import rlvr_lib; import transformers, trl, peft, lpips; from trl import GRPOTrainer, SFTTrainer; print('ok')"
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    assert python(code, environment).endswith("ok\n")


def test_the_block_blocks(tmp_path):
    code = """
import socket, urllib.request
for attempt in (lambda: socket.create_connection(("192.0.2.1", 80), timeout=1),
                lambda: urllib.request.urlopen("https://huggingface.co", timeout=1)):
    try:
        attempt()
    except OSError as error:
        assert "network use" in str(error), error
    else:
        raise AssertionError("reached the network")
server = socket.create_server(("127.0.0.1", 0))
socket.create_connection(server.getsockname()).close()
"""
    python(code, offline_environment(tmp_path))


def test_the_whole_library_imports_without_network(tmp_path):
    code = """
import importlib.util, pkgutil, rlvr_lib
names = [module.name for module in pkgutil.walk_packages(rlvr_lib.__path__, "rlvr_lib.")]
needs_triton = "rlvr_lib.training.decode_kernels"  # Triton comes with CUDA builds of torch only
for name in names:
    if name != needs_triton or importlib.util.find_spec("triton"):
        importlib.import_module(name)
print(len(names))
"""
    environment = offline_environment(tmp_path)
    environment.pop("HF_HUB_OFFLINE", None)
    assert int(python(code, environment)) >= 10


PAGES = """
import resource, torch
def faults(tensors):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(tensors):
        torch.ones(6_000_000)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
import rlvr_lib
faults(2)
print(faults(20), 20 * 24_000_000 // resource.getpagesize())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_freed_memory_serves_the_next_tensor():
    """Twenty tensors of 24 MB, one after another, take hardly a page from the system."""
    done = subprocess.run([sys.executable, "-c", PAGES], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    taken, pages = map(int, done.stdout.split())
    assert taken < pages / 10
