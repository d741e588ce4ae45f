"""The nine tasks of GLUE, from local TSV files or through ``datasets``."""

from collections.abc import Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from seqmix.data.files import data_folder, read_file
from seqmix.data.loader import Gathered
from seqmix.data.served import Served, Split, check_positive, parts
from seqmix.data.text.tokenizer import Bytes, Tokenizer, read_vocabulary
from seqmix.errors import ConfigError, DataError, check_choice
from seqmix.hub import from_hub

TaskName = Literal["cola", "mnli", "mnli-mm", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli"]
# its one or two sentences, and its label or score
Example = tuple[tuple[bytes, ...], float]


class _Layout(NamedTuple):
    folder: str
    columns: tuple[str, ...]
    label: str
    # in the order of their numbers; None: the label is a score
    classes: tuple[str, ...] | None = ("0", "1")
    dev: str = "dev"
    hub_columns: tuple[str, ...] | None = None
    # columns of files without a header
    header: tuple[str, ...] | None = None


_PAIR = ("sentence1", "sentence2")
_MNLI = _Layout(
    "MNLI", _PAIR, "gold_label", ("entailment", "neutral", "contradiction"), "dev_matched", ("premise", "hypothesis")
)
_LAYOUTS = {
    "cola": _Layout("CoLA", ("sentence",), "label", header=("source", "label", "mark", "sentence")),
    "mnli": _MNLI,
    "mnli-mm": _MNLI._replace(dev="dev_mismatched"),
    "mrpc": _Layout("MRPC", ("#1 String", "#2 String"), "Quality", hub_columns=_PAIR),
    "qnli": _Layout("QNLI", ("question", "sentence"), "label", ("entailment", "not_entailment")),
    "qqp": _Layout("QQP", ("question1", "question2"), "is_duplicate"),
    "rte": _Layout("RTE", _PAIR, "label", ("entailment", "not_entailment")),
    "sst2": _Layout("SST-2", ("sentence",), "label"),
    "stsb": _Layout("STS-B", _PAIR, "score", None),
    "wnli": _Layout("WNLI", _PAIR, "label"),
}


class GLUE(Served):
    """A task of GLUE: sentences, or pairs of them, with a class, or for STS-B a score from 0 to 5.

    Looked for in ``root`` as ``glue/<folder>/train.tsv`` and ``dev.tsv``, plain or ``.gz``, without quoting; else
    loaded as ``nyu-mll/glue`` through ``datasets``. The labels of its test sets are not public: the development set is
    the test set here, and a tenth of the training set is held out for validation.

    A batch is ``{"tokens": (B, L), "mask": (B, L), "types": (B, L), "special": (B, L), "labels": (B,)}``:
    ``[CLS] a [SEP]``, or ``[CLS] a [SEP] b [SEP]`` with type 1 for b; L is the longest of the batch.

    Args:
        task: name of the task; ``mnli-mm`` is MNLI with the mismatched development set.
        max_len: longest example in tokens; the longer sentence is cut.
        protocol: ``held-out``, as above; ``dev`` trains on everything and validates on the development set, as
            published figures do, and says so in the name of the data.
        tokens: ``wordpiece`` or ``bytes``.
        vocab_size: rows of the embedding. Default: 260 for bytes, 30522 for WordPiece. As in pre-training.
        vocabulary: file of WordPiece, also below ``root``.
        root: the data folder. Default: ``$SEQMIX_DATA``, else ``./data``.
        split_seed: seed of the draw of validation examples.

    Raises:
        ConfigError: if an option is out of range, or WordPiece has no vocabulary.

    Source: Wang et al., 2018, arXiv:1804.07461. Differs from the original code in: see the protocol.
    """

    #: one sequence an example: pairs of sentences are joined
    pairs = False

    def __init__(
        self,
        task: TaskName,
        max_len: int = 128,
        batch_size: int = 16,
        *,
        protocol: Literal["held-out", "dev"] = "held-out",
        tokens: Literal["wordpiece", "bytes"] = "wordpiece",
        vocab_size: int | None = None,
        vocabulary: str | None = "wordpiece/bert-base-uncased-vocab.txt",
        root: str | None = None,
        split_seed: int = 0,
        eval_batch_size: int | None = None,
        seed: int | None = None,
    ):
        check_choice("task", task, tuple(_LAYOUTS))
        check_choice("protocol", protocol, ("held-out", "dev"))
        check_choice("tokens", tokens, ("wordpiece", "bytes"))
        self.layout = _LAYOUTS[task]
        name = self.layout.folder + "-mm" * (task == "mnli-mm")
        name = name if protocol == "held-out" else f"{name} (validated on test)"
        super().__init__(name, batch_size, eval_batch_size=eval_batch_size, seed=seed)
        if max_len < 5:
            raise ConfigError(f"max_len = {max_len} has no room for two sentences and three marks; set data.max_len")
        if tokens == "wordpiece" and vocabulary is None:
            raise ConfigError("tokens = 'wordpiece' needs the vocabulary of pre-training; set data.vocabulary")
        self.task, self.max_len, self.protocol, self.tokens = task, max_len, protocol, tokens
        self.vocab_size = {"bytes": 260, "wordpiece": 30522}[tokens] if vocab_size is None else vocab_size
        check_positive(vocab_size=self.vocab_size)
        self.vocabulary, self.root, self.split_seed = vocabulary, root, split_seed
        self.n_classes = 1 if self.layout.classes is None else len(self.layout.classes)

    def examples(self, split: Literal["train", "test"]) -> list[Example]:
        """Sentences and labels of the training or of the development set."""
        folder = data_folder(self.root) / "glue" / self.layout.folder
        file = "train" if split == "train" else self.layout.dev
        for path in (folder / f"{file}.tsv", folder / f"{file}.tsv.gz"):
            if path.exists():
                return list(_rows(path, self.layout))
        return list(_hub(self.task, file, self.layout, folder / f"{file}.tsv"))

    def _make(self) -> Mapping[Split, "Sentences"]:
        tokenizer = self._tokenizer()
        train, test = (
            Sentences(self.examples(s), tokenizer, self.max_len, self.n_classes > 1) for s in ("train", "test")
        )
        if self.protocol == "dev":
            return {"train": train, "val": test, "test": test}
        n_val = max(1, len(train) // 10)
        rows = parts(len(train), {"val": n_val, "train": len(train) - n_val}, self.split_seed)
        return {**{split: train.take(part) for split, part in rows.items()}, "test": test}

    def _tokenizer(self) -> Tokenizer:
        if self.tokens == "bytes":
            tokenizer: Tokenizer = Bytes()
        else:
            tokenizer = read_vocabulary(data_folder(self.root) / (self.vocabulary or ""))
        if tokenizer.n_tokens > self.vocab_size:
            raise ConfigError(
                f"vocab_size = {self.vocab_size} has no room for the {tokenizer.n_tokens:,} tokens of the vocabulary; "
                "set data.vocab_size as in pre-training"
            )
        return tokenizer


class Sentences(Gathered):
    """Labeled sentences, or pairs, by number, for ``WindowLoader``.

    Args:
        examples: sentences and labels.
        tokenizer: makes tokens of them.
        max_len: longest example, in tokens.
        classes: labels are classes, not scores.
    """

    def __init__(self, examples: Sequence[Example], tokenizer: Tokenizer, max_len: int, classes: bool):
        self.pad, self.cls, self.sep = tokenizer.pad, tokenizer.cls, tokenizer.sep
        width = len(examples[0][0])
        columns = [tokenizer.encode([texts[k] for texts, _ in examples]) for k in range(width)]
        # type + 1 of each token; 0 is padding
        rows, kinds = [], []
        for sentences in zip(*columns, strict=True):
            cut = _cut([s.tolist() for s in sentences], max_len - 1 - width)
            row, kind = [tokenizer.cls], [1]
            for k, sentence in enumerate(cut):
                row += [*sentence, tokenizer.sep]
                kind += [k + 1] * (len(sentence) + 1)
            rows.append(torch.tensor(row))
            kinds.append(torch.tensor(kind))
        self.tokens = pad_sequence(rows, batch_first=True, padding_value=self.pad).int()  # (n, L)
        self.kinds = pad_sequence(kinds, batch_first=True).byte()
        self.labels = torch.tensor([label for _, label in examples], dtype=torch.int64 if classes else torch.float32)

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: Tensor) -> "Sentences":
        """The examples with these numbers ``(n,)``."""
        part = copy(self)
        part.tokens, part.kinds, part.labels = self.tokens[rows], self.kinds[rows], self.labels[rows]
        return part

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        kinds = self.kinds[index].long()
        kinds = kinds[:, : int((kinds > 0).sum(1).max())]
        tokens = self.tokens[index, : kinds.shape[1]].long()
        return {
            "tokens": tokens,
            "mask": kinds > 0,
            "types": (kinds - 1).clamp(min=0),
            "special": (kinds > 0) & ((tokens == self.cls) | (tokens == self.sep)),
            "labels": self.labels[index],
        }


def _cut(sentences: list[list[int]], room: int) -> list[list[int]]:
    """Tokens are taken from the end of the longer sentence until both fit."""
    while sum(map(len, sentences)) > room:
        longest = max(range(len(sentences)), key=lambda k: len(sentences[k]))
        others = sum(map(len, sentences)) - len(sentences[longest])
        second = max((len(s) for k, s in enumerate(sentences) if k != longest), default=0)
        keep = max(room - others, min(second, len(sentences[longest]) - 1))
        sentences[longest] = sentences[longest][:keep]
    return sentences


def _rows(path: Path, layout: _Layout) -> Iterator[Example]:
    lines = read_file(path).removeprefix(b"\xef\xbb\xbf").splitlines()
    names = layout.header or tuple(lines.pop(0).decode(errors="replace").split("\t")) if lines else ()
    missing = [name for name in (*layout.columns, layout.label) if name not in names]
    if missing:
        raise DataError(f"{path}: no column {missing[0]!r} in its first line; get the file of the GLUE benchmark")
    at, label_at = [names.index(name) for name in layout.columns], names.index(layout.label)
    for number, line in enumerate(lines, 1 if layout.header else 2):
        columns = line.split(b"\t")
        where = f"{path}, line {number}"
        if len(columns) <= max(*at, label_at):
            need = max(*at, label_at) + 1
            raise DataError(f"{where}: {len(columns)} columns between tabs, {need} are needed; get a whole copy")
        yield tuple(columns[k] for k in at), _label(columns[label_at].decode(errors="replace"), layout, where)
    if not lines:
        raise DataError(f"{path} holds no example; get a whole copy")


def _label(text: str, layout: _Layout, where: str) -> float:
    if layout.classes is not None:
        if text not in layout.classes:
            raise DataError(f"{where}: the label is {text!r}; it has to be one of {', '.join(layout.classes)}")
        return layout.classes.index(text)
    try:
        score = float(text)
    except ValueError:
        score = -1.0
    if not 0 <= score <= 5:
        raise DataError(f"{where}: the score is {text!r}; it has to be a number from 0 to 5")
    return score


def _hub(task: str, file: str, layout: _Layout, path: Path) -> Iterator[Example]:
    # imported here: it takes a second, and is not needed if the files are there
    import datasets

    split = "train" if file == "train" else file.replace("dev", "validation", 1)
    with from_hub(f"{path} not found, and nyu-mll/glue cannot be loaded through datasets", "put the file there"):
        rows: Any = datasets.load_dataset("nyu-mll/glue", task.removesuffix("-mm"), split=split)
    for row in rows:
        yield tuple(row[name].encode() for name in layout.hub_columns or layout.columns), row["label"]
