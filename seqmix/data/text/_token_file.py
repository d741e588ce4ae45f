"""Documents as tokens in one memory-mapped file, which is created from the texts if needed."""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import groupby, islice, pairwise
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from seqmix.data.tensor_file import fingerprinted, open_tensors, write_tensors
from seqmix.data.text.tokenizer import Tokenizer
from seqmix.errors import DataError

# parts of documents that pass through the tokenizer together, since it has threads, and their bytes
_TOGETHER, _MOST_BYTES = 256, 1 << 20


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
    documents: Iterable[Iterable[bytes]],
    tokenizer: Tokenizer,
    sentence: str | None = None,
) -> Documents:
    """The documents of a file below ``folder``, which is made of ``documents`` if it is not there.

    Args:
        folder: where the file is kept.
        name: beginning of its name.
        recipe: all that the texts depend on; another recipe, or tokenizer, is another file.
        documents: the texts, each in parts that are tokens by themselves; read once and only if needed.
        tokenizer: makes tokens of them.
        sentence: regular expression of what a sentence ends with. None: borders of sentences are not kept.

    Raises:
        DataError: if a document is empty, or the file is damaged.
        WriteError: if the folder cannot be written.
    """
    recipe = json.dumps([recipe, tokenizer.fingerprint] + ([] if sentence is None else [sentence]))
    path = fingerprinted(folder, name, recipe)
    if not path.exists():
        _write(path, name, recipe, documents, tokenizer, None if sentence is None else re.compile(sentence.encode()))
    return Documents(**open_tensors(path, Documents._fields))


def _write(
    path: Path,
    name: str,
    recipe: str,
    documents: Iterable[Iterable[bytes]],
    tokenizer: Tokenizer,
    sentence: re.Pattern[bytes] | None,
) -> None:
    lengths, sizes, borders = [0], [], []

    def tokens() -> Iterator[np.ndarray]:
        begin = 0
        for number, document in groupby(_encoded(name, documents, tokenizer, sentence), itemgetter(0)):
            held, count, size = [[tokenizer.cls]], 1, 0
            for _, n_bytes, parts in document:
                if count > 1:
                    yield np.concatenate(held)
                    held = []
                if sentence is not None:
                    borders.append(begin + count + np.cumsum([0, *map(len, parts)]))
                held += parts
                count, size = count + sum(map(len, parts)), size + n_bytes
            if count == 1:
                raise DataError(f"{name}: document {number} is empty; leave it out")
            lengths.append(count + 1)
            sizes.append(size)
            begin += count + 1
            yield np.concatenate([*held, [tokenizer.sep]])

    def others() -> dict[str, np.ndarray]:
        found = {"bounds": np.cumsum(lengths), "n_bytes": np.array(sizes, np.int64)}
        return found if sentence is None else {**found, "sentences": np.concatenate(borders)}

    dtype = np.int16 if tokenizer.n_tokens <= np.iinfo(np.int16).max else np.int32
    write_tensors(path, "tokens", dtype, tokens(), others, recipe, "free it, or set data.cache")


def _encoded(
    name: str, documents: Iterable[Iterable[bytes]], tokenizer: Tokenizer, sentence: re.Pattern[bytes] | None
) -> Iterator[tuple[int, int, list[np.ndarray]]]:
    """Number, size and tokens (of sentences or of the whole) of each part of a document.

    Sentences may go beyond a part: with them a document is one.
    """
    number = 0
    for batch in _together(documents, whole=sentence is not None):
        split = [[text] if sentence is None else _sentences(text, sentence) for _, text in batch]
        encoded = iter(tokenizer.encode([part for parts in split for part in parts]))
        for (number, text), parts in zip(batch, split, strict=True):
            # white space alone has no token in WordPiece, and is not a sentence
            yield number, len(text), [part for part in islice(encoded, len(parts)) if len(part)]
    if number == 0:
        raise DataError(f"{name} holds no text; get a whole copy")


def _together(documents: Iterable[Iterable[bytes]], *, whole: bool) -> Iterator[list[tuple[int, bytes]]]:
    """Parts of documents with the number of theirs, some at a time."""
    batch, size = [], 0
    for number, document in enumerate(documents, 1):
        for part in [b"".join(document)] if whole else document:
            batch.append((number, part))
            size += len(part)
            if len(batch) == _TOGETHER or size >= _MOST_BYTES:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _sentences(text: bytes, end: re.Pattern[bytes]) -> list[bytes]:
    """Parts of ``text``, each up to and with a match of ``end``; nothing is lost."""
    ends = [0, *(match.end() for match in end.finditer(text)), len(text)]
    return [text[i:j] for i, j in pairwise(ends) if j > i]
