"""What fails at the hub is reported by its cause: the disk of the cache, memory, or the hub and its network."""

import errno
import logging
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from seqmix import Forecaster
from seqmix.data import GLUE, HubImages, HubText, LRAText
from seqmix.errors import DataError, WriteError
from seqmix.hub import from_hub
from seqmix.vision import create_model

DISK = OSError(errno.ENOSPC, "No space left on device")
# as `datasets` raises it while it writes rows
INDIRECT = RuntimeError("An error occurred while generating the dataset")
INDIRECT.__cause__ = DISK
CACHE = PermissionError(errno.EACCES, "Permission denied", "/cache/blobs")
ROOM = "make room, or set HF_HOME to another folder"

PLACES = {
    "weights": (
        lambda _: create_model("poolformer_s12", weights="timm/caformer_s18.sail_in1k"),
        "and pass the path: weights=",
    ),
    "forecaster": (lambda _: Forecaster.load("seqmix/nothing-here"), "or give a folder that Forecaster.save wrote"),
    "images": (lambda _: HubImages("someone/pets"), "put the images into folders and use ImageFolder"),
    "sequences": (lambda root: LRAText(root=root).setup(), "or set data.root"),
    "glue": (lambda root: GLUE("cola", tokens="bytes", root=root).setup(), "put the file there"),
    "text": (lambda root: HubText("a/b", cache=root).setup(), "use data: TextFiles with local files"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("error", "raised", "message"),
    [
        (DISK, WriteError, f"a file cannot be written: the disk is full; {ROOM}"),
        (INDIRECT, WriteError, f"a file cannot be written: the disk is full; {ROOM}"),
        (OSError("Not enough disk space. Needed: 9 TB"), WriteError, f"cannot be written: the disk is full; {ROOM}"),
        (CACHE, WriteError, f"'/cache/blobs' cannot be written: the folder cannot be written to; {ROOM}"),
        (ConnectionError("no network\n" + 99 * "so "), DataError, " (no network so so so"),
        (KeyError(), DataError, " (KeyError); "),
        (MemoryError(), MemoryError, ""),
    ],
)
def test_an_error_at_the_hub(place, error, raised, message, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise error

    for name in ("datasets.load_dataset", "huggingface_hub.snapshot_download", "huggingface_hub.hf_hub_download"):
        monkeypatch.setattr(name, fail)
    call, remedy = PLACES[place]
    with pytest.raises(raised) as found:
        call(str(tmp_path))
    assert message in str(found.value)
    assert raised is not DataError or remedy in str(found.value)


def test_attempts_are_not_logged():
    """An error says what six attempts said, and the client waits quietly; what it is told to wait for is said."""
    client, said = logging.getLogger("huggingface_hub.utils._http"), []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    client.addHandler(handler)
    try:
        for quiet in (nullcontext(), from_hub("what", "remedy"), nullcontext()):
            with quiet:
                for message in (
                    "'err' thrown while requesting HEAD /a",
                    "Retrying in 1s [Retry 1/5].",
                    "Rate limited.",
                ):
                    client.warning(message)
    finally:
        client.removeHandler(handler)
    assert [message[:7] for message in said] == [
        "'err' t",
        "Retryin",
        "Rate li",
        "Rate li",
        "'err' t",
        "Retryin",
        "Rate li",
    ]


def test_a_column_that_a_corpus_lacks(tmp_path, monkeypatch):
    rows = SimpleNamespace(take=lambda n: [{"body": "one", "title": "two"}] * n)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: rows)
    with pytest.raises(DataError, match=r"has no column 'text', it has body, title; set data.column"):
        HubText("a/b", n_documents=2, cache=str(tmp_path)).setup()
