"""Published files: found in the data folder, or downloaded once with a checksum and atomically."""

import gzip
import hashlib
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple

from seqmix.errors import DataError, WriteError
from seqmix.whole import whole

DEMO = "`seqmix fit --config configs/demo.yaml` runs without data"


class Source(NamedTuple):
    """A published file: where it may lie below the data folder, where it comes from, and its fingerprint."""

    paths: tuple[str, ...]  # a download goes to the first
    url: str
    size: int | None  # bytes, unpacked
    sha256: str | None  # of the unpacked file; None where no verified copy is known, which is then not fetched


def read_published(source: Source, root: str | None) -> bytes:
    """Content of a published file, from the data folder or, if it is not there, from its address.

    Args:
        source: the file.
        root: the data folder. Default: ``$SEQMIX_DATA``, or ``./data``.

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
        lines: how many lines to read. Default: all.

    Raises:
        DataError: if it cannot be read or unpacked.
    """
    with opened(path) as file:
        return file.read() if lines is None else b"".join(islice(file, lines))


@contextmanager
def opened(path: Path) -> Iterator[IO[bytes]]:
    """A file to be read as bytes, unpacked if its name ends in ``.gz``.

    Raises:
        DataError: if it cannot be read or unpacked, then or later.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file  # pyright: ignore[reportReturnType]
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


def decode(content: bytes, file: str) -> str:
    """Text of a UTF-8 file, its lines ended by a line feed.

    Args:
        content: the file, as bytes.
        file: its name, for messages.

    Raises:
        DataError: if it is not UTF-8; the message names the line.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{file}, line {line}: is not UTF-8 (byte 0x{content[error.start]:02x}); save it as UTF-8"
        ) from error
    return text.replace("\r\n", "\n") if "\n" in text else text.replace("\r", "\n")


def _find(source: Source, folder: Path) -> Path | None:
    for name in source.paths:
        for path in (folder / name, folder / Path(name).name):
            for candidate in (path, path.with_name(path.name + ".gz")):
                if candidate.exists():
                    return candidate
    return None


def _download(source: Source, path: Path) -> None:
    """Fetch a file; on any failure the folder is as it was before."""
    # imported here: they take a tenth of a second, and are not needed if the files are there
    from pooch import HTTPDownloader, file_hash
    from requests import ConnectionError, RequestException, Timeout

    made = [folder for folder in path.parents if not folder.exists()]
    try:
        with whole(path) as part:
            HTTPDownloader(progressbar=sys.stderr.isatty(), timeout=30)(source.url, part, None)
            found = file_hash(part)
            if found != source.sha256:
                raise _failure(source, path, f"its sha256 is {found}, not {source.sha256}")
    except RequestException as error:
        if error.response is not None:
            reason = f"the server answered {error.response.status_code} {error.response.reason}"
            error.response.close()
        else:
            reason = "no connection" if isinstance(error, ConnectionError | Timeout) else "the connection broke off"
        raise _failure(source, path, reason) from error
    except WriteError as error:
        raise _failure(source, path, error.reason) from error
    finally:
        for folder in made:
            # fails, as it should, where the file has arrived
            with suppress(OSError):
                folder.rmdir()


def _failure(source: Source, path: Path, reason: str) -> DataError:
    return DataError(
        f"cannot download {path.name} from {source.url} into {path.parent}: {reason}; "
        f"put the file there by hand, or set data.root (or SEQMIX_DATA) to a folder that has it; {DEMO}"
    )
