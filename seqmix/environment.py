"""Record of the environment of a run: versions, machine, commit."""

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import seqmix

_PACKAGES = ("torch", "lightning", "jsonargparse", "numpy", "pandas")


def environment() -> dict[str, Any]:
    """Versions, processor, threads, accelerators and commit, as plain values."""
    head, dirty = commit()
    return {
        "seqmix": seqmix.__version__,
        "commit": head,
        "dirty": dirty,
        "python": platform.python_version(),
        **{name: _version(name) for name in _PACKAGES},
        "system": platform.platform(),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpus": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())],
    }


def commit() -> tuple[str, bool]:
    """Commit of the source tree and whether it was changed since; empty for an installed package."""
    root = Path(seqmix.__file__).parents[1]
    if not (root / ".git").exists():
        return "", False
    head = _git(root, "rev-parse", "--short=12", "HEAD")
    return head, bool(head and _git(root, "status", "--porcelain", "--untracked-files=no"))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _git(root: Path, *args: str) -> str:
    try:
        done = subprocess.run(["git", *args], cwd=root, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _cpu() -> str:
    try:
        lines = [line.partition(":") for line in Path("/proc/cpuinfo").read_text().splitlines()]
    except OSError:
        lines = []
    return next((value.strip() for key, _, value in lines if key.strip() == "model name"), platform.machine())
