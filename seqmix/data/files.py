"""Find a published file in the data folder, or fetch it once: checksum, progress bar, nothing half-written."""

import errno
import gzip
import hashlib
import http.client
import os
import urllib.error
import urllib.request
import zlib
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from seqmix.errors import DataError

DEMO = "`seqmix fit --config configs/demo.yaml` runs without data"


class Source(NamedTuple):
    """A published file: where it may lie below the data folder, where it comes from, and its fingerprint."""

    paths: tuple[str, ...]  # a download goes to the first
    url: str
    size: int | None  # bytes, unpacked
    sha256: str | None  # of the unpacked file; None: no verified copy is known, so it is not fetched


def read_published(source: Source, root: str | None) -> bytes:
    """Content of a published file, from the data folder or, if it is not there, from its address.

    Args:
        source: the file.
        root: the data folder; None: ``$SEQMIX_DATA``, else ``./data``.

    Raises:
        DataError: if it can be neither found nor fetched, or is not the published file.
    """
    folder = data_folder(root)
    path = _find(source, folder)
    if path is None:
        path = folder / source.paths[0]
        if source.sha256 is None:
            raise DataError(
                f"{path.name} not found in {path.parent}, and it is not downloaded by itself because no checksum of it "
                f"is known; download {source.url} into that folder, or set data.root (or SEQMIX_DATA); {DEMO}"
            )
        _download(source, path)
    try:
        content = read_file(path)
    except DataError as error:
        raise DataError(f"{error}; or delete it, to fetch it again from {source.url}; {DEMO}") from error
    found = hashlib.sha256(content).hexdigest()
    if source.sha256 not in (None, found):
        raise DataError(
            f"{path.name} in {path.parent} is not the published file: its sha256 is {found}, not {source.sha256}; "
            f"delete it to fetch it again from {source.url}, or load it with WideCSV; {DEMO}"
        )
    return content


def data_folder(root: str | None) -> Path:
    """The data folder: ``root`` if given, else ``$SEQMIX_DATA``, else ``./data``."""
    return Path(root or os.environ.get("SEQMIX_DATA") or "data").resolve()


def read_file(path: Path, lines: int | None = None) -> bytes:
    """Content of a file, unpacked if its name ends in ``.gz``.

    Args:
        path: the file.
        lines: how many lines from its beginning; None for all.

    Raises:
        DataError: if it cannot be read or unpacked.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return file.read() if lines is None else b"".join(islice(file, lines))
    except FileNotFoundError as error:
        raise DataError(f"{path.name} not found in {path.resolve().parent}; check the path") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(
            f"{path.name} in {path.resolve().parent} is truncated or no gzip file ({error}); get a whole copy"
        ) from error
    except OSError as error:
        raise DataError(
            f"{path.name} in {path.resolve().parent} cannot be read ({error.strerror}); check path and permissions"
        ) from error


def _find(source: Source, folder: Path) -> Path | None:
    for name in source.paths:
        for path in (folder / name, folder / Path(name).name):
            for candidate in (path, path.with_name(path.name + ".gz")):
                if candidate.exists():
                    return candidate
    return None


def _download(source: Source, path: Path) -> None:
    """Fetch into a temporary file beside ``path`` and rename; on any failure the folder is as it was before."""
    made = [folder for folder in path.parents if not folder.exists()]
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        found = _stream(source, part)
        if found != source.sha256:
            raise _failure(source, path, f"its sha256 is {found}, not {source.sha256}")
        os.replace(part, path)
    except (OSError, http.client.HTTPException) as error:
        raise _failure(source, path, _reason(error)) from error
    finally:
        with suppress(OSError):
            part.unlink()
        for folder in made:
            # fails, as it should, where the file has arrived
            with suppress(OSError):
                folder.rmdir()


def _stream(source: Source, part: Path) -> str:
    digest = hashlib.sha256()
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with (
        urllib.request.urlopen(source.url, timeout=30) as response,
        part.open("wb") as file,
        Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        bar = progress.add_task(Path(source.paths[0]).name, total=source.size)
        while chunk := response.read(1 << 16):
            file.write(chunk)
            digest.update(chunk)
            progress.advance(bar, len(chunk))
    return digest.hexdigest()


def _reason(error: OSError | http.client.HTTPException) -> str:
    if isinstance(error, urllib.error.HTTPError):
        # it is an open response too
        error.close()
        return f"the server answered {error.code} {error.reason}"
    if isinstance(error, urllib.error.URLError):
        return f"no connection ({error.reason})"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "the disk is full"
    if isinstance(error, OSError) and error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "the folder cannot be written to"
    return f"the connection broke off ({error})"


def _failure(source: Source, path: Path, reason: str) -> DataError:
    return DataError(
        f"cannot download {path.name} from {source.url} into {path.parent}: {reason}; "
        f"put the file there by hand, or set data.root (or SEQMIX_DATA) to a folder that has it; {DEMO}"
    )
