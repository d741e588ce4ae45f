"""Corpora: documents from local files or through ``datasets``, as pieces for causal and masked language models."""

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from seqmix.data.files import data_folder, opened
from seqmix.data.served import Served, Split, check_positive
from seqmix.data.text._pairs import Pairs
from seqmix.data.text._parts import borders, lines, split_documents
from seqmix.data.text._pieces import Objective, Packing, Pieces
from seqmix.data.text._token_file import Documents, token_file
from seqmix.data.text.tokenizer import Bytes, Characters, Tokenizer, WordPiece, read_vocabulary, train_vocabulary
from seqmix.errors import ConfigError, DataError, check_choice
from seqmix.hub import from_hub
from seqmix.whole import whole

Kind = Literal["bytes", "characters", "wordpiece"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")
# a mark and white space, or the end of a line
SENTENCE = r"[.!?]\s+|\n"


class Corpus(Served, ABC):
    """Documents of three splits, as tokens in memory-mapped files that are made when first asked for.

    Args:
        max_len: longest piece, in tokens.
        objective: pieces for ``causal`` or for ``masked`` language models, or ``pairs`` for masked ones that learn the
            order of sentences too.
        tokens: ``bytes``, ``characters`` of the training text, or ``wordpiece``.
        vocab_size: rows of the embedding; at least the tokens there are, and how many pieces a trained vocabulary has.
            Default: 260 for bytes, 256 for characters, 30522 for WordPiece.
        vocabulary: file of WordPiece, also below ``root``. Default: one is trained on the training text.
        root: the data folder. Default: ``$SEQMIX_DATA``, else ``./data``.
        packing: ``padded`` fills the pieces of a batch up to the longest; ``documents`` lays them one after another
            in one row; mixers that are packed in `seqmix list` save the padding.
        sentence: for pairs: regular expression for the end of a sentence.
        copies: for pairs: number of times that the training text is cut and paired, with other draws each time.
        cache: folder of the token files. Default: ``./data/corpora``.

    Raises:
        ConfigError: if an option is out of range.
    """

    def __init__(
        self,
        name: str,
        max_len: int,
        batch_size: int,
        *,
        objective: Objective,
        tokens: Kind,
        vocab_size: int | None,
        vocabulary: str | None,
        root: str | None,
        packing: Packing,
        sentence: str,
        copies: int,
        cache: str | None,
        eval_batch_size: int | None,
        seed: int | None,
    ):
        check_choice("objective", objective, ("causal", "masked", "pairs"))
        check_choice("packing", packing, ("padded", "documents"))
        check_choice("tokens", tokens, tuple(_ROWS))
        super().__init__(name, batch_size, eval_batch_size=eval_batch_size, seed=seed)
        check_positive(copies=copies)
        if max_len < (5 if objective == "pairs" else 3):
            raise ConfigError(f"max_len = {max_len} has no room for text between its marks; set data.max_len to 128")
        if objective == "pairs" and packing == "documents":
            raise ConfigError("pairs are padded, got packing = 'documents'; set data.packing: padded")
        if vocabulary is not None and tokens != "wordpiece":
            raise ConfigError(f"vocabulary = {vocabulary!r} is of WordPiece, tokens = {tokens!r}; change one of them")
        self.max_len, self.tokens, self.vocabulary = max_len, tokens, vocabulary
        self.objective: Objective = objective
        self.vocab_size = _ROWS[tokens] if vocab_size is None else vocab_size
        check_positive(vocab_size=self.vocab_size)
        self.root, self.cache = root, cache
        self.packing: Packing = packing
        self.sentence, self.copies = _pattern("sentence", sentence), copies
        self._tokenizer: Tokenizer | None = None

    @abstractmethod
    def _documents(self, split: Split) -> Iterable[Iterable[bytes]]:
        """The documents of a split, each in parts that end where a line does, read one after another."""

    @abstractmethod
    def _recipe(self, split: Split) -> str:
        """All that the documents of a split depend on."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer; reads the training text if its vocabulary comes from it."""
        if self._tokenizer is None:
            self._tokenizer = self._make_tokenizer()
            if self._tokenizer.n_tokens > self.vocab_size:
                raise ConfigError(
                    f"vocab_size = {self.vocab_size} has no room for the {self._tokenizer.n_tokens:,} tokens of "
                    f"{self.name}; set data.vocab_size to that or more, and train a model of that size"
                )
        return self._tokenizer

    def documents(self, split: Split) -> Documents:
        """The documents of a split, as tokens."""
        name = f"{self.name.replace('/', '-')}-{split}"
        sentence = self.sentence if self.objective == "pairs" else None
        return token_file(self._folder, name, self._recipe(split), self._documents(split), self.tokenizer, sentence)

    def _make(self) -> Mapping[Split, Pieces | Pairs]:
        return {split: self._examples(split) for split in SPLITS}

    def _examples(self, split: Split) -> Pieces | Pairs:
        documents = self.documents(split)
        if self.objective == "pairs":
            copies = self.copies if split == "train" else 1
            return Pairs(documents, self.tokenizer, self.max_len, copies=copies)
        causal, packed = self.objective == "causal", self.packing == "documents"
        return Pieces(documents, self.tokenizer, self.max_len, causal=causal, packed=packed)

    def _make_tokenizer(self) -> Tokenizer:
        if self.tokens == "bytes":
            return Bytes()
        if self.vocabulary is not None:
            return read_vocabulary(data_folder(self.root) / self.vocabulary)
        parts = chain.from_iterable(self._documents("train"))
        if self.tokens == "characters":
            return Characters.of(parts)
        return _trained(self._folder, f"{self._recipe('train')} {self.vocab_size}", parts, self)

    @property
    def _folder(self) -> Path:
        return Path(self.cache or "data/corpora").resolve()


class TextFiles(Corpus):
    """Text of local files, plain or ``.gz``: any corpus, of one document a file or many.

    Files are looked for as they are named, then below ``root``, then with ``.gz`` after their name. Without files for
    validation and test the last tenth of the training text, from the end of a line, is held out: half for each.

    Args:
        train: file of the training text, for example ``wikitext2/wiki.train.tokens``.
        val: file of the validation text. Default: cut from the training text.
        test: file of the test text. Default: cut from the training text.
        document: regular expression of the line that a document begins with. Default: a file is one document.

    Raises:
        ConfigError: if an option is out of range, or only one of ``val`` and ``test`` is given.
    """

    def __init__(
        self,
        train: str,
        val: str | None = None,
        test: str | None = None,
        document: str | None = None,
        max_len: int = 256,
        batch_size: int = 32,
        *,
        objective: Objective = "causal",
        tokens: Kind = "bytes",
        vocab_size: int | None = None,
        vocabulary: str | None = None,
        root: str | None = None,
        packing: Packing = "padded",
        sentence: str = SENTENCE,
        copies: int = 1,
        cache: str | None = None,
        eval_batch_size: int | None = None,
        seed: int | None = None,
    ):
        super().__init__(
            Path(train).name.removesuffix(".gz"),
            max_len,
            batch_size,
            objective=objective,
            tokens=tokens,
            vocab_size=vocab_size,
            vocabulary=vocabulary,
            root=root,
            packing=packing,
            sentence=sentence,
            copies=copies,
            cache=cache,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )
        if (val is None) != (test is None):
            raise ConfigError(f"val = {val!r} and test = {test!r} are one file of two; give both, or none of them")
        self.files: dict[Split, str | None] = {"train": train, "val": val, "test": test}
        self.document = _pattern("document", document)
        # bytes where the parts of one file begin, and its size
        self._borders: list[int] | None = None

    def _documents(self, split: Split) -> Iterator[Iterable[bytes]]:
        start = None if self.document is None else re.compile(self.document.encode())
        first, last = 0, None
        if self.files["val"] is None:
            path, i = self._path("train"), SPLITS.index(split)
            self._borders = self._borders or borders(path)
            first, last = self._borders[i : i + 2]
        else:
            path = self._path(split)
        with opened(path) as file:
            file.seek(first)
            yield from split_documents(lines(file, first, last), start)

    def _recipe(self, split: Split) -> str:
        path = self._path("train" if self.files["val"] is None else split)
        part = split if self.files["val"] is None else "whole"
        return f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns} {self.document} {part}"

    def _path(self, split: Split) -> Path:
        name = self.files[split] or ""
        folder = data_folder(self.root)
        for path in (Path(name), folder / name, folder / f"{name}.gz"):
            if path.is_file():
                return path
        raise DataError(f"{name} not found, nor below {folder}; set data.{split}, or SEQMIX_DATA to the data folder")


class HubText(Corpus):
    """Text of a data set of the Hugging Face hub, one document a row, loaded through ``datasets``.

    Args:
        dataset: its name, for example ``allenai/c4``.
        subset: its configuration, for example ``en``. Default: none.
        column: the column of the text.
        val_split: its split for validation.
        test_split: its split for the test.
        n_documents: documents of each split, from the beginning, read without loading the rest. Default: all.

    Raises:
        ConfigError: if an option is out of range.
    """

    def __init__(
        self,
        dataset: str,
        subset: str | None = None,
        column: str = "text",
        val_split: str = "validation",
        test_split: str = "test",
        n_documents: int | None = None,
        max_len: int = 256,
        batch_size: int = 32,
        *,
        objective: Objective = "causal",
        tokens: Kind = "bytes",
        vocab_size: int | None = None,
        vocabulary: str | None = None,
        root: str | None = None,
        packing: Packing = "padded",
        sentence: str = SENTENCE,
        copies: int = 1,
        cache: str | None = None,
        eval_batch_size: int | None = None,
        seed: int | None = None,
    ):
        super().__init__(
            dataset,
            max_len,
            batch_size,
            objective=objective,
            tokens=tokens,
            vocab_size=vocab_size,
            vocabulary=vocabulary,
            root=root,
            packing=packing,
            sentence=sentence,
            copies=copies,
            cache=cache,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )
        if n_documents is not None:
            check_positive(n_documents=n_documents)
        self.dataset, self.subset, self.column, self.n_documents = dataset, subset, column, n_documents
        self.hub_splits: dict[Split, str] = {"train": "train", "val": val_split, "test": test_split}

    def _documents(self, split: Split) -> Iterator[Iterable[bytes]]:
        # imported here: it takes a second, and local files do not need it
        import datasets

        with from_hub(f"{self.dataset} cannot be loaded through datasets", "use data: TextFiles with local files"):
            rows: Any = datasets.load_dataset(
                self.dataset, self.subset, split=self.hub_splits[split], streaming=self.n_documents is not None
            )
            for row in rows if self.n_documents is None else rows.take(self.n_documents):
                if self.column not in row:
                    raise DataError(
                        f"{self.dataset} has no column {self.column!r}, it has {', '.join(row)}; set data.column"
                    )
                if row[self.column]:
                    yield [row[self.column].encode()]

    def _recipe(self, split: Split) -> str:
        return f"{self.dataset} {self.subset} {self.column} {self.hub_splits[split]} {self.n_documents}"


# default rows of the embedding by kind of tokens
_ROWS = {"bytes": 260, "characters": 256, "wordpiece": 30522}


def _pattern(name: str, pattern: str | None) -> str | None:
    try:
        re.compile(pattern or "")
    except re.error as error:
        raise ConfigError(f"{name} = {pattern!r} is not a regular expression: {error}; set data.{name}") from error
    return pattern


def _trained(folder: Path, recipe: str, texts: Iterable[bytes], corpus: Corpus) -> WordPiece:
    """The vocabulary trained on ``texts``, from a file below ``folder`` that is made if it is not there."""
    path = folder / f"wordpiece-{hashlib.sha256(recipe.encode()).hexdigest()[:12]}.txt"
    if not path.exists():
        pieces: Sequence[str] = train_vocabulary(texts, corpus.vocab_size)
        with whole(path, "make room, or set data.cache") as part:
            part.write_text("\n".join(pieces), encoding="utf-8")
    return read_vocabulary(path)
