"""Packages of npm for the pages: verified, kept, and what is said where one cannot be had."""

import base64
import hashlib
import io
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

pytest.importorskip("sphinx", reason="needs pip install 'seqmix[docs]'")


@pytest.fixture
def npm(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "docs")
    monkeypatch.delitem(sys.modules, "_npm", raising=False)
    module = __import__("_npm")
    monkeypatch.setattr(module, "CACHE", tmp_path / "npm")
    return module


@pytest.fixture
def archive():
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        member = tarfile.TarInfo("package/main.js")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"1+1;"))
    return made.getvalue()


def test_a_package_is_fetched_once_and_verified(npm, archive, monkeypatch):
    asked = []

    def pack(words, *, cwd, **_):
        asked.append(words[1])
        (cwd / "some.tgz").write_bytes(archive)
        return subprocess.CompletedProcess(words, 0, "", "")

    monkeypatch.setattr(npm, "_npm", pack)
    with pytest.raises(npm.ExtensionError, match=r"@a/b 1\.0 has integrity sha512-\S+, not sha512-x; not used"):
        npm.package("@a/b", "1.0", "sha512-x")
    digest = "sha512-" + base64.b64encode(hashlib.sha512(archive).digest()).decode()
    for _ in range(2):
        assert (npm.package("@a/b", "1.0", digest) / "main.js").read_text() == "1+1;"
    assert asked == ["@a/b@1.0"] * 2, "once refused, once kept"
    assert [path.name for path in npm.CACHE.iterdir()] == ["@a+b-1.0"], "nothing else is left"


def test_without_a_network_the_remedy_is_named(npm, monkeypatch):
    failed = subprocess.CompletedProcess([], 1, "", "npm error code ECONNREFUSED\nnpm error syscall connect\n")
    monkeypatch.setattr(npm, "_npm", lambda words, **_: failed)
    with pytest.raises(npm.ExtensionError) as e:
        npm.package("a", "1.0", "sha512-x")
    assert str(e.value) == (
        "npm package a@1.0 is not in build/npm and cannot be fetched: npm error code ECONNREFUSED; "
        "npm error syscall connect; with SEQMIX_DOCS_PLAIN=1 the pages are built without such packages"
    )
