"""Documents as tokens in one memory-mapped file: written as they come, whole or not at all, with a checksum.

The file is in the safetensors format: tokens first, since their number is known last, then the bounds and the sizes in
bytes of the documents, and the borders of sentences if they were asked for.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from torch import Tensor

from seqmix.data.text.tokenizer import Tokenizer
from seqmix.errors import DataError

# room for the header of the file, a multiple of the 8 bytes of a bound
_HEADER = 1024
# documents that pass through the tokenizer together: it has threads
_TOGETHER = 256


class Documents(NamedTuple):
    """Tokens of all documents ``(T,)``, each between [CLS] and [SEP], bounds ``(n + 1,)``, and sizes ``(n,)``.

    ``sentences`` are the places of the first token of every sentence and of the [SEP] after the last of a document.
    """

    tokens: Tensor
    bounds: Tensor
    n_bytes: Tensor
    sentences: Tensor | None = None


def token_file(
    folder: Path,
    name: str,
    recipe: str,
    texts: Iterable[bytes],
    tokenizer: Tokenizer,
    sentence: str | None = None,
) -> Documents:
    """The documents of a file below ``folder``, which is made of ``texts`` if it is not there.

    Args:
        folder: where the file is kept.
        name: beginning of its name.
        recipe: what the texts depend on; another recipe, or tokenizer, is another file.
        texts: the documents, read once and only if needed.
        tokenizer: makes tokens of them.
        sentence: regular expression of what a sentence ends with; None: borders of sentences are not kept.

    Raises:
        DataError: if a document is empty, the file is damaged, or the folder cannot be written.
    """
    recipe = json.dumps([recipe, tokenizer.fingerprint] + ([] if sentence is None else [sentence]))
    path = folder / f"{name}-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.safetensors"
    if not path.exists():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _write(path, name, recipe, texts, tokenizer, None if sentence is None else re.compile(sentence.encode()))
        except OSError as error:
            raise DataError(
                f"{path.name} cannot be written into {folder}: {error.strerror}; free it, or set data.cache"
            ) from error
    return _open(path)


def _write(
    path: Path,
    name: str,
    recipe: str,
    texts: Iterable[bytes],
    tokenizer: Tokenizer,
    sentence: re.Pattern[bytes] | None,
) -> None:
    narrow = tokenizer.n_tokens <= np.iinfo(np.int16).max
    dtype, label = (np.int16, "I16") if narrow else (np.int32, "I32")
    lengths, sizes, borders = [], [], []
    digest = hashlib.sha256()
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:

            def put(values: np.ndarray) -> None:
                file.write(values.tobytes())
                digest.update(values.tobytes())

            file.seek(8 + _HEADER)
            begin = 0
            for size, parts in _encoded(name, texts, tokenizer, sentence):
                put(np.concatenate([[tokenizer.cls], *parts, [tokenizer.sep]]).astype(dtype))
                lengths.append(2 + sum(map(len, parts)))
                sizes.append(size)
                if sentence is not None:
                    borders.append(begin + 1 + np.cumsum([0, *map(len, parts)]))
                begin += lengths[-1]
            # what follows has 8 bytes a number: it begins at a multiple of them
            spare = -sum(lengths) % 4
            put(np.full(spare, tokenizer.pad, dtype))
            bounds = np.cumsum([0, *lengths])
            put(bounds)
            put(np.array(sizes, np.int64))
            total = (int(bounds[-1]) + spare) * dtype().itemsize
            shapes = {
                "tokens": (label, int(bounds[-1]) + spare, total),
                "bounds": ("I64", len(bounds), 8 * len(bounds)),
                "n_bytes": ("I64", len(sizes), 8 * len(sizes)),
            }
            if sentence is not None:
                every = np.concatenate(borders)
                put(every)
                shapes["sentences"] = ("I64", len(every), every.nbytes)
            file.seek(0)
            file.write(_header(shapes, {"recipe": recipe, "sha256": digest.hexdigest()}))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _encoded(
    name: str, texts: Iterable[bytes], tokenizer: Tokenizer, sentence: re.Pattern[bytes] | None
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """Size of each document, and the tokens of its sentences, or of the whole."""
    number, left = 0, iter(texts)
    while batch := list(islice(left, _TOGETHER)):
        split = [[text] if sentence is None else _sentences(text, sentence) for text in batch]
        encoded = iter(tokenizer.encode([part for parts in split for part in parts]))
        for text, parts in zip(batch, split, strict=True):
            number += 1
            # white space alone has no token in WordPiece, and is no sentence
            tokens = [part for part in islice(encoded, len(parts)) if len(part)]
            if not tokens:
                raise DataError(f"{name}: document {number} is empty; leave it out")
            yield len(text), tokens
    if number == 0:
        raise DataError(f"{name} holds no text; get a whole copy")


def _sentences(text: bytes, end: re.Pattern[bytes]) -> list[bytes]:
    """Parts of ``text``, each up to and with what ``end`` matches; nothing is lost."""
    ends = [0, *(match.end() for match in end.finditer(text)), len(text)]
    return [text[i:j] for i, j in pairwise(ends) if j > i]


def _header(shapes: dict[str, tuple[str, int, int]], metadata: dict[str, str]) -> bytes:
    entries, start = {}, 0
    for name, (dtype, count, size) in shapes.items():
        entries[name] = {"dtype": dtype, "shape": [count], "data_offsets": [start, start + size]}
        start += size
    text = json.dumps({"__metadata__": metadata, **entries}).encode()
    return _HEADER.to_bytes(8, "little") + text.ljust(_HEADER)


def _open(path: Path) -> Documents:
    try:
        with safe_open(path, "pt") as file:
            kept = set(file.keys())
            documents = Documents(*(file.get_tensor(name) for name in Documents._fields if name in kept))
            want = (file.metadata() or {}).get("sha256")
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path} is damaged ({error}); delete it, to have it made again") from error
    digest = hashlib.sha256()
    for values in (values for values in documents if values is not None):
        # numpy's stubs do not say that arrays are buffers; a copy would not fit where the file is larger than memory
        digest.update(values.numpy())  # pyright: ignore[reportArgumentType]
    if digest.hexdigest() != want:
        raise DataError(f"{path} is damaged: its sha256 is not the one it was written with; delete it, to have it made")
    return documents
