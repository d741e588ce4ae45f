"""Generated examples in one memory-mapped file: drawn in parallel, each by its number, resumed when interrupted."""

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from seqmix.data.tensor_file import fingerprinted, open_tensors, write_tensors
from seqmix.errors import ConfigError, ProcessDied
from seqmix.whole import whole

Example = tuple[bytes, int]
# examples drawn by one task of the pool, and kept in one file until all are there
CHUNK = 500
_REMEDY = "free it, or set data.root"


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
        recipe: all that the examples depend on; another recipe is another file.
        draw: returns the example of a number; a module's function, or a ``functools.partial`` of one.
        total: number of examples.
        root: folder of generated data. Default: ``./data``.
        workers: processes that draw. Default: as many as there are cores for this process.

    Raises:
        DataError: if the file is damaged.
        ProcessDied: if a process that draws was killed.
        WriteError: if the folder cannot be written.
        ConfigError: if there are not as many different examples.
    """
    text = json.dumps({**recipe, "total": total}, sort_keys=True)
    folder = Path(root or "data").resolve() / name
    path = fingerprinted(folder, name, text)
    chunks = path.with_suffix(".chunks")
    if not path.exists():
        try:
            _draw_all(draw, total, chunks, _workers(workers))
            _assemble(path, chunks, draw, total, text)
        except FileNotFoundError:
            # another run has made the same file and cleared the chunks
            if not path.exists():
                raise
        except BrokenProcessPool as error:
            raise ProcessDied(
                f"a process that makes {path.name} was killed, most often for want of memory; start again: what was "
                "made is kept, and data.workers: 1 takes the least memory"
            ) from error
    # chunks of a run that was killed after it had written the file
    shutil.rmtree(chunks, ignore_errors=True)
    tokens, offsets, labels = open_tensors(path, ("tokens", "offsets", "labels")).values()
    # zeros may follow the last sequence
    return tokens[: int(offsets[-1])], offsets, labels


def _draw_all(draw: Callable[[int], Example], total: int, chunks: Path, workers: int) -> None:
    missing = [first for first in range(0, total, CHUNK) if not _chunk(chunks, first).exists()]
    make = partial(_draw_chunk, draw, total, chunks)
    console = Console(stderr=True)
    shown = partial(track, total=len(missing), description=chunks.stem, console=console, transient=True)
    hidden = not console.is_terminal
    if min(workers, len(missing)) < 2:
        for _ in shown(map(make, missing), disable=hidden):
            pass
        return
    # fork needs neither an import of torch nor a guard in the user's script, but breaks after CUDA was initialized
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
    tokens, lengths = np.frombuffer(b"".join(sequences), np.uint8), np.array([len(s) for s in sequences])
    with whole(_chunk(chunks, first), _REMEDY) as part, part.open("wb") as file:
        np.savez(file, tokens=tokens, lengths=lengths, labels=np.array(labels, np.uint8))


def _assemble(path: Path, chunks: Path, draw: Callable[[int], Example], total: int, recipe: str) -> None:
    """Write the chunks one after another into the file."""
    lengths, labels = np.zeros(total + 1, np.int64), np.zeros(total, np.uint8)

    def sequences() -> Iterator[np.ndarray]:
        for i, (sequence, label) in enumerate(_different(_stored(draw, chunks, total), draw, total)):
            lengths[i + 1], labels[i] = len(sequence), label
            yield np.frombuffer(sequence, np.uint8)

    def others() -> dict[str, np.ndarray]:
        return {"offsets": lengths.cumsum(), "labels": labels}

    write_tensors(path, "tokens", np.uint8, sequences(), others, recipe, _REMEDY)


def _stored(draw: Callable[[int], Example], chunks: Path, total: int) -> Iterator[Example]:
    for first in range(0, total, CHUNK):
        try:
            tokens, ends, labels = _read_chunk(chunks, first)
        except (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError):
            # damaged, by a full disk for example: it is drawn again
            _draw_chunk(draw, total, chunks, first)
            tokens, ends, labels = _read_chunk(chunks, first)
        for start, end, label in zip([0, *ends], ends, labels, strict=False):
            yield tokens[start:end], label


def _read_chunk(chunks: Path, first: int) -> tuple[bytes, list[int], list[int]]:
    with _chunk(chunks, first).open("rb") as file, np.load(file) as chunk:
        return chunk["tokens"].tobytes(), np.cumsum(chunk["lengths"]).tolist(), chunk["labels"].tolist()


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


def _chunk(chunks: Path, first: int) -> Path:
    return chunks / f"{first}.npz"


def _workers(workers: int | None) -> int:
    if workers is not None:
        return workers
    # not on every system: the cores this process may use
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
