"""Text, retrieval and images of Long Range Arena, as bytes, from local files or through ``datasets``."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from seqmix.data.files import data_folder, read_file
from seqmix.data.sequences.cifar import cifar_images
from seqmix.data.sequences.hub import load_rows
from seqmix.data.sequences.labeled import LabeledBytes, LabeledData, join
from seqmix.data.served import Split, check_positive, parts
from seqmix.errors import DataError, check_choice

Documents = tuple[list[bytes], list[int]]
# text, label as it stands in the file, and where that is
Labeled = tuple[bytes, object, str]


class LRAText(LabeledData):
    """Sentiment of IMDB reviews as bytes, positive or negative.

    Looked for in ``root`` as ``imdb/train.jsonl`` and ``imdb/test.jsonl`` (``text`` and ``label`` in each line, plain
    or ``.gz``), then as ``aclImdb``, the folder of the publisher; else loaded as ``stanfordnlp/imdb`` through
    ``datasets``. Byte b is token b + 1, 0 is padding; what is not UTF-8 is kept as it is.

    Args:
        max_len: bytes of a review that are read, from its beginning.
        protocol: ``held-out`` keeps a tenth of the training reviews for validation; ``lra`` validates on the test
            reviews, as the benchmark did, and says so in the name of the data.
        root: the data folder. Default: ``$SEQMIX_DATA``, else ``./data``.
        split_seed: seed of the draw of validation reviews.

    Raises:
        ConfigError: if an option is out of range.

    Source: Maas et al., 2011; Tay et al., 2020, arXiv:2011.04006, sec. 2.2.2, with 1,000 to 4,000 bytes. Differs from
    the original code in: the test reviews choose nothing, unless asked to.
    """

    def __init__(
        self,
        max_len: int = 4096,
        batch_size: int = 32,
        *,
        protocol: Literal["held-out", "lra"] = "held-out",
        root: str | None = None,
        split_seed: int = 0,
        eval_batch_size: int | None = None,
        seed: int | None = None,
    ):
        check_choice("protocol", protocol, ("held-out", "lra"))
        check_positive(max_len=max_len)
        name = "LRAText" if protocol == "held-out" else "LRAText (validated on test)"
        super().__init__(name, 257, 2, max_len, batch_size, eval_batch_size=eval_batch_size, seed=seed)
        self.protocol, self.root, self.split_seed = protocol, root, split_seed

    def _make(self) -> Mapping[Split, LabeledBytes]:
        train, test = (LabeledBytes(*join(*self._read(split))) for split in ("train", "test"))
        if self.protocol == "lra":
            return {"train": train, "val": test, "test": test}
        return {**_held_out(train, self.split_seed), "test": test}

    def _read(self, split: Literal["train", "test"]) -> Documents:
        folder = data_folder(self.root)
        for path in (folder / "imdb" / f"{split}.jsonl", folder / "imdb" / f"{split}.jsonl.gz"):
            if path.exists():
                return _checked(_lines(path), 2, self.max_len)
        if (folder / "aclImdb" / split).is_dir():
            return _checked(_reviews(folder / "aclImdb" / split), 2, self.max_len)
        rows = load_rows("stanfordnlp/imdb", split, f"put imdb/{split}.jsonl(.gz) or the folder aclImdb into {folder}")
        return _checked(((r["text"].encode(), r["label"], f"row {i}") for i, r in enumerate(rows)), 2, self.max_len)


class LRARetrieval(LabeledData):
    """Pairs of papers as bytes, one citing the other or not, of the ACL Anthology Network (AAN).

    The text may not be passed on: it is read from your copy of the benchmark's files, ``new_aan_pairs.train.tsv``,
    ``new_aan_pairs.eval.tsv`` and ``new_aan_pairs.test.tsv``, plain or ``.gz``, with the columns label, two ids and two
    texts between tabs, without quoting. Byte b is token b + 1, 0 is padding.

    Args:
        path: folder of the three files.
        max_len: bytes of a paper that are read, from its beginning.

    Raises:
        ConfigError: if an option is out of range.
        DataError: if the files are not there.

    Source: Radev et al., 2013; Tay et al., 2020, arXiv:2011.04006, sec. 2.2.3, with 4,000 bytes. Differs from the
    original code in: every pair counts, the last batch included.
    """

    def __init__(
        self,
        path: str,
        max_len: int = 4000,
        batch_size: int = 32,
        *,
        eval_batch_size: int | None = None,
        seed: int | None = None,
    ):
        check_positive(max_len=max_len)
        super().__init__(
            "LRARetrieval", 257, 2, max_len, batch_size, pairs=True, eval_batch_size=eval_batch_size, seed=seed
        )
        self.path = path

    def _make(self) -> Mapping[Split, LabeledBytes]:
        names: dict[Split, str] = {"train": "train", "val": "eval", "test": "test"}
        return {split: self._read(name) for split, name in names.items()}

    def _read(self, name: str) -> LabeledBytes:
        path = Path(self.path) / f"new_aan_pairs.{name}.tsv"
        path = path if path.exists() else path.with_name(f"{path.name}.gz")
        if not path.exists():
            raise DataError(
                f"new_aan_pairs.{name}.tsv not found in {Path(self.path).resolve()}; the texts of AAN may not be "
                "passed on: take the file from lra_release.gz of google-research/long-range-arena, and set data.path"
            )
        texts, labels = [], []
        for number, line in enumerate(read_file(path).splitlines(), 1):
            columns = line.split(b"\t")
            if len(columns) != 5:
                raise DataError(
                    f"{path.name}, line {number}: {len(columns)} columns between tabs, 5 are needed; get a whole copy"
                )
            # the files of the benchmark have 0.0 and 1.0
            label = columns[0].decode(errors="replace").removesuffix(".0")
            pair = [(text, label, f"{path.name}, line {number}") for text in columns[3:]]
            both, known = _checked(pair, 2, self.max_len)
            texts += both
            labels.append(known[0])
        return LabeledBytes(*join(texts, labels), pairs=True)


class LRAImage(LabeledData):
    """CIFAR-10 in gray, row by row: 1,024 bytes, ten classes.

    Looked for in ``root`` as ``cifar10_jpeg/train.tar.gz`` and ``test.tar.gz`` (a folder for each class), then as
    ``cifar-10-batches-py`` of the publisher; else loaded as ``uoft-cs/cifar10`` through ``datasets``. A tenth of the
    training images is held out for validation.

    Args:
        zero_is_pad: mask black pixels, as the code of PoNet and Nyströmformer does.
        root: the data folder. Default: ``$SEQMIX_DATA``, else ``./data``.
        split_seed: seed of the draw of validation images.

    Source: Krizhevsky, 2009; Tay et al., 2020, arXiv:2011.04006, sec. 2.2.4. Differs from the original code in: the
    validation images are drawn, not the last tenth.
    """

    def __init__(
        self,
        batch_size: int = 50,
        *,
        zero_is_pad: bool = False,
        root: str | None = None,
        split_seed: int = 0,
        eval_batch_size: int | None = None,
        seed: int | None = None,
    ):
        super().__init__("LRAImage", 256, 10, 1024, batch_size, eval_batch_size=eval_batch_size, seed=seed)
        self.zero_is_pad, self.root, self.split_seed = zero_is_pad, root, split_seed

    def _make(self) -> Mapping[Split, LabeledBytes]:
        train, test = (
            LabeledBytes(*join(*self._read(split)), padded=False, zero_is_pad=self.zero_is_pad)
            for split in ("train", "test")
        )
        return {**_held_out(train, self.split_seed), "test": test}

    def _read(self, split: Literal["train", "test"]) -> Documents:
        images, labels = zip(*((gray(image), label) for image, label in cifar_images(self.root, split)), strict=True)
        return list(images), list(labels)


def gray(image: np.ndarray) -> bytes:
    """Brightness of an RGB image ``(32, 32, 3)``, ``0.2989 R + 0.5870 G + 0.1140 B``, row by row."""
    return np.rint(image @ (0.2989, 0.5870, 0.1140)).astype(np.uint8).tobytes()


def _held_out(train: LabeledBytes, seed: int) -> dict[Split, LabeledBytes]:
    n_val = max(1, len(train) // 10)
    rows = parts(len(train), {"val": n_val, "train": len(train) - n_val}, seed)
    return {split: train.take(part) for split, part in rows.items()}


def _checked(examples: Iterable[Labeled], n_classes: int, max_len: int) -> Documents:
    """Texts, cut, and labels of triples ``(text, label, where)``; empty texts and other labels are refused."""
    texts, labels = [], []
    known = {str(k): k for k in range(n_classes)}
    for text, label, where in examples:
        if not text:
            raise DataError(f"{where}: the text is empty; leave it out")
        if str(label) not in known:
            raise DataError(f"{where}: the label is {label!r}; it has to be 0 to {n_classes - 1}")
        texts.append(text[:max_len])
        labels.append(known[str(label)])
    if not texts:
        raise DataError("no text was found; get a whole copy of the files")
    return texts, labels


def _lines(path: Path) -> Iterator[Labeled]:
    for number, line in enumerate(read_file(path).split(b"\n"), 1):
        if not line:
            continue
        where = f"{path.name}, line {number}"
        try:
            # bytes that are not UTF-8 pass through the text and come out the same
            row = json.loads(line.decode(errors="surrogateescape"))
            yield row["text"].encode(errors="surrogateescape"), row["label"], where
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{where}: no JSON object with 'text' and 'label' ({error}); get a whole copy") from error


def _reviews(folder: Path) -> Iterator[Labeled]:
    for label, name in enumerate(("neg", "pos")):
        for path in sorted((folder / name).glob("*.txt")):
            yield read_file(path), label, str(path)
