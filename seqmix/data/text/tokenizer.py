"""Tokenizers: bytes, characters, and WordPiece through the package ``tokenizers``."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from seqmix.data.files import read_file
from seqmix.errors import ConfigError, DataError

# of bytes and characters; those of WordPiece stand in its vocabulary
PAD, CLS, SEP, MASK, UNKNOWN = range(5)
SPECIAL = ["[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]"]


class Tokenizer(ABC):
    """Base of tokenizers, with special tokens for padding, begin and end of a text, and the mask."""

    def __init__(self, n_tokens: int, fingerprint: str, pad: int, cls: int, sep: int, mask: int):
        self.n_tokens, self.fingerprint = n_tokens, fingerprint
        self.pad, self.cls, self.sep, self.mask = pad, cls, sep, mask

    @abstractmethod
    def encode(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        """Tokens of each text, ``(n,)`` int64, without special ones."""

    @abstractmethod
    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ``tokens``; special ones have none."""


class Bytes(Tokenizer):
    """Byte tokenizer: byte b is token b + 4; nothing is unknown, and invalid UTF-8 is kept."""

    def __init__(self):
        super().__init__(256 + UNKNOWN, "bytes", PAD, CLS, SEP, MASK)

    def encode(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        return [np.frombuffer(text, np.uint8).astype(np.int64) + UNKNOWN for text in texts]

    def decode(self, tokens: Sequence[int]) -> str:
        return bytes(t - UNKNOWN for t in tokens if UNKNOWN <= t < self.n_tokens).decode(errors="replace")


class Characters(Tokenizer):
    """Character tokenizer: a token for each character of the training text; bytes that are not UTF-8 are characters.

    Args:
        characters: the code points that have a token, ascending.
    """

    def __init__(self, characters: np.ndarray):
        self.characters = characters
        digest = hashlib.sha256(characters.tobytes()).hexdigest()
        super().__init__(len(characters) + len(SPECIAL), f"characters {digest}", PAD, CLS, SEP, MASK)

    @classmethod
    def of(cls, texts: Iterable[bytes]) -> "Characters":
        """The tokenizer of all characters of ``texts``."""
        known: set[int] = set()
        for text in texts:
            known.update(np.unique(_points(text)).tolist())
        return cls(np.array(sorted(known), np.uint32))

    def encode(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        tokens = []
        for points in map(_points, texts):
            at = np.searchsorted(self.characters, points).clip(max=len(self.characters) - 1)
            tokens.append(np.where(self.characters[at] == points, at + len(SPECIAL), UNKNOWN))
        return tokens

    def decode(self, tokens: Sequence[int]) -> str:
        text = "".join(chr(self.characters[t - len(SPECIAL)]) for t in tokens if len(SPECIAL) <= t < self.n_tokens)
        return text.encode(errors="surrogateescape").decode(errors="replace")


class WordPiece(Tokenizer):
    """WordPiece tokenizer of BERT, without case and accents.

    Args:
        vocabulary: the pieces in the order of their numbers; with [PAD], [UNK], [CLS], [SEP] and [MASK] among them.
        where: file they are from, for messages.
    """

    def __init__(self, vocabulary: Sequence[str], where: Path):
        numbers = {piece: i for i, piece in enumerate(vocabulary)}
        missing = [name for name in SPECIAL if name not in numbers]
        if missing:
            raise DataError(
                f"{where} is no WordPiece vocabulary: {', '.join(missing)} not found; give one piece a line"
            )
        self.pieces = _pieces(numbers)
        digest = hashlib.sha256("\n".join(vocabulary).encode()).hexdigest()
        pad, cls, sep, mask, _ = (numbers[name] for name in SPECIAL)
        super().__init__(len(numbers), f"wordpiece {digest}", pad, cls, sep, mask)

    def encode(self, texts: Sequence[bytes]) -> list[np.ndarray]:
        encoded = self.pieces.encode_batch_fast([t.decode(errors="replace") for t in texts], add_special_tokens=False)
        return [np.array(e.ids, np.int64) for e in encoded]

    def decode(self, tokens: Sequence[int]) -> str:
        """Text of ``tokens``, in lower case."""
        return self.pieces.decode([t for t in tokens if t < self.n_tokens])


def read_vocabulary(path: Path) -> WordPiece:
    """The WordPiece tokenizer of a vocabulary file, one piece a line."""
    if not path.exists():
        raise DataError(f"{path} not found; give data.vocabulary a WordPiece vocabulary, or null to have one trained")
    try:
        return WordPiece(read_file(path).decode().splitlines(), path)
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is no WordPiece vocabulary: {error}; give one piece a line, in UTF-8") from error


def train_vocabulary(texts: Iterable[bytes], vocab_size: int) -> list[str]:
    """Pieces of a WordPiece vocabulary made for ``texts``, special ones first."""
    trainer = _package().trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=SPECIAL, show_progress=False, continuing_subword_prefix="##"
    )
    untrained = _pieces({name: i for i, name in enumerate(SPECIAL)})
    untrained.train_from_iterator((text.decode(errors="replace") for text in texts), trainer)
    numbers = untrained.get_vocab()
    return sorted(numbers, key=numbers.__getitem__)


def _pieces(numbers: dict[str, int]) -> Any:
    t = _package()
    # a word longer than any in a language is one unknown token, as in BERT
    model = t.models.WordPiece(numbers, unk_token="[UNK]", max_input_chars_per_word=100)
    pieces = t.Tokenizer(model)
    pieces.normalizer = t.normalizers.BertNormalizer(lowercase=True)
    pieces.pre_tokenizer = t.pre_tokenizers.BertPreTokenizer()
    pieces.decoder = t.decoders.WordPiece()
    pieces.add_special_tokens([name for name in SPECIAL if name in numbers])
    return pieces


def _package() -> Any:
    # an extra, and slow to import: only those who ask for WordPiece need it
    try:
        import tokenizers
    except ImportError as error:
        raise ConfigError(
            "data.tokens = 'wordpiece' needs the package tokenizers; pip install 'seqmix[text]', or use bytes"
        ) from error
    return tokenizers


def _points(text: bytes) -> np.ndarray:
    return np.frombuffer(text.decode(errors="surrogateescape").encode("utf-32-le", "surrogatepass"), np.uint32)
