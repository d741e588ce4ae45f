"""Generated examples in one memory-mapped file: drawn in parallel, each from its own number, resumed when interrupted.

The file is in the safetensors format. It appears whole or not at all; its name is a fingerprint of what it was made by.
"""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from torch import Tensor

from seqmix.errors import ConfigError, DataError

Example = tuple[bytes, int]
# examples drawn by one task of the pool, and kept in one file until all are there
CHUNK = 500
# room for the header of the file, a multiple of the 8 bytes of an offset
_HEADER = 1024


def generated(
    name: str,
    recipe: Mapping[str, object],
    draw: Callable[[int], Example],
    total: int,
    *,
    root: str | None,
    workers: int | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens ``(T,)``, offsets ``(total + 1,)`` and labels ``(total,)`` of different examples, from the file or drawn.

    Args:
        name: folder below ``root``, and beginning of the file's name.
        recipe: what the examples depend on; another recipe is another file.
        draw: makes the example of a number; a module's function, or a ``functools.partial`` of one.
        total: number of examples.
        root: folder of generated data; None: ``./data``.
        workers: processes that draw; None: as many as there are cores for this process.

    Raises:
        DataError: if the file is damaged, or the folder cannot be written.
        ConfigError: if there are not as many different examples.
    """
    text = json.dumps({**recipe, "total": total}, sort_keys=True)
    folder = Path(root or "data").resolve() / name
    path = folder / f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}.safetensors"
    chunks = path.with_suffix(".chunks")
    if not path.exists():
        try:
            _draw_all(draw, total, chunks, _workers(workers))
            _assemble(path, chunks, draw, total, text)
            shutil.rmtree(chunks, ignore_errors=True)
        except FileNotFoundError:
            # another run has made the same file and cleared the chunks
            if not path.exists():
                raise
        except OSError as error:
            raise DataError(
                f"{path.name} cannot be written into {folder}: {error.strerror}; free it, or set data.root"
            ) from error
    return _open(path)


def _draw_all(draw: Callable[[int], Example], total: int, chunks: Path, workers: int) -> None:
    chunks.mkdir(parents=True, exist_ok=True)
    missing = [first for first in range(0, total, CHUNK) if not _chunk(chunks, first).exists()]
    make = partial(_draw_chunk, draw, total, chunks)
    console = Console(stderr=True)
    shown = partial(track, total=len(missing), description=chunks.stem, console=console, transient=True)
    hidden = not console.is_terminal
    if min(workers, len(missing)) < 2:
        for _ in shown(map(make, missing), disable=hidden):
            pass
        return
    # a fork needs no import of torch, nor a guard in the user's script; after CUDA has begun it would break
    forked = "fork" in multiprocessing.get_all_start_methods() and not torch.cuda.is_initialized()
    context = multiprocessing.get_context("fork" if forked else "spawn")
    with ProcessPoolExecutor(workers, context, signal.signal, (signal.SIGINT, signal.SIG_IGN)) as pool:
        try:
            for done in shown(as_completed([pool.submit(make, first) for first in missing]), disable=hidden):
                done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _draw_chunk(draw: Callable[[int], Example], total: int, chunks: Path, first: int) -> None:
    sequences, labels = zip(*map(draw, range(first, min(first + CHUNK, total))), strict=True)
    part = chunks / f"{first}.{os.getpid()}.part"
    with part.open("wb") as file:
        tokens = np.frombuffer(b"".join(sequences), np.uint8)
        np.savez(file, tokens=tokens, lengths=np.array([len(s) for s in sequences]), labels=np.array(labels, np.uint8))
    os.replace(part, _chunk(chunks, first))


def _assemble(path: Path, chunks: Path, draw: Callable[[int], Example], total: int, recipe: str) -> None:
    """Write the chunks one after another; the header and the offsets, known last, come first in the file."""
    lengths, labels = np.zeros(total, np.int64), np.zeros(total, np.uint8)
    digest = hashlib.sha256()
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.seek(8 + _HEADER + 8 * (total + 1) + total)
            for i, (sequence, label) in enumerate(_different(_stored(chunks, total), draw, total)):
                file.write(sequence)
                digest.update(sequence)
                lengths[i], labels[i] = len(sequence), label
            offsets = np.concatenate([[0], lengths.cumsum()])
            digest.update(offsets.tobytes() + labels.tobytes())
            file.seek(0)
            file.write(_header(total, int(offsets[-1]), {"recipe": recipe, "sha256": digest.hexdigest()}))
            file.write(offsets.tobytes() + labels.tobytes())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _stored(chunks: Path, total: int) -> Iterator[Example]:
    for first in range(0, total, CHUNK):
        with np.load(_chunk(chunks, first)) as chunk:
            tokens, labels = chunk["tokens"].tobytes(), chunk["labels"].tolist()
            ends = np.cumsum(chunk["lengths"]).tolist()
        for start, end, label in zip([0, *ends], ends, labels, strict=False):
            yield tokens[start:end], label


def _different(examples: Iterator[Example], draw: Callable[[int], Example], total: int) -> Iterator[Example]:
    """The examples, each repetition replaced by the next new one beyond ``total``."""
    seen: set[bytes] = set()
    spare = total
    for example in examples:
        while (key := hashlib.blake2b(example[0], digest_size=16).digest()) in seen:
            if spare == 20 * total:
                raise ConfigError(
                    f"{len(seen):,} different examples were found among {spare:,}, {total:,} are asked for; "
                    "ask for fewer, or allow longer ones"
                )
            example, spare = draw(spare), spare + 1
        seen.add(key)
        yield example


def _open(path: Path) -> tuple[Tensor, Tensor, Tensor]:
    try:
        with safe_open(path, "pt") as file:
            tokens, offsets, labels = (file.get_tensor(name) for name in ("tokens", "offsets", "labels"))
            want = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it, to have it made again") from error
    digest = hashlib.sha256(tokens.numpy())
    digest.update(offsets.numpy().tobytes() + labels.numpy().tobytes())
    if digest.hexdigest() != want:
        raise DataError(f"{path} is damaged: its sha256 is not the one it was written with; delete it, to have it made")
    return tokens, offsets, labels


def _header(total: int, size: int, metadata: Mapping[str, str]) -> bytes:
    ends = np.cumsum([0, 8 * (total + 1), total, size]).tolist()
    kinds = {"offsets": ("I64", total + 1), "labels": ("U8", total), "tokens": ("U8", size)}
    entries = {
        name: {"dtype": dtype, "shape": [count], "data_offsets": [start, end]}
        for (name, (dtype, count)), start, end in zip(kinds.items(), ends, ends[1:], strict=False)
    }
    text = json.dumps({"__metadata__": metadata, **entries}).encode()
    return _HEADER.to_bytes(8, "little") + text.ljust(_HEADER)


def _chunk(chunks: Path, first: int) -> Path:
    return chunks / f"{first}.npz"


def _workers(workers: int | None) -> int:
    if workers is not None:
        return workers
    # not on every system: the cores this process may use
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
