"""Documents as tokens in one memory-mapped file, which is made of the texts where it is not there."""

import json
import re
from collections.abc import Iterable, Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor

from seqmix.data.tensor_file import fingerprinted, open_tensors, write_tensors
from seqmix.data.text.tokenizer import Tokenizer
from seqmix.errors import DataError

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
        DataError: if a document is empty, or the file is damaged.
        WriteError: if the folder cannot be written.
    """
    recipe = json.dumps([recipe, tokenizer.fingerprint] + ([] if sentence is None else [sentence]))
    path = fingerprinted(folder, name, recipe)
    if not path.exists():
        _write(path, name, recipe, texts, tokenizer, None if sentence is None else re.compile(sentence.encode()))
    return Documents(**open_tensors(path, Documents._fields))


def _write(
    path: Path,
    name: str,
    recipe: str,
    texts: Iterable[bytes],
    tokenizer: Tokenizer,
    sentence: re.Pattern[bytes] | None,
) -> None:
    lengths, sizes, borders = [0], [], []

    def documents() -> Iterator[np.ndarray]:
        begin = 0
        for size, parts in _encoded(name, texts, tokenizer, sentence):
            tokens = np.concatenate([[tokenizer.cls], *parts, [tokenizer.sep]])
            lengths.append(len(tokens))
            sizes.append(size)
            borders.append(begin + 1 + np.cumsum([0, *map(len, parts)]))
            begin += len(tokens)
            yield tokens

    def others() -> dict[str, np.ndarray]:
        found = {"bounds": np.cumsum(lengths), "n_bytes": np.array(sizes, np.int64)}
        return found if sentence is None else {**found, "sentences": np.concatenate(borders)}

    dtype = np.int16 if tokenizer.n_tokens <= np.iinfo(np.int16).max else np.int32
    write_tensors(path, "tokens", dtype, documents(), others, recipe, "free it, or set data.cache")


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
