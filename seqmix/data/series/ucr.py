"""The UCR and UEA archives of time-series classification, and labeled series in files of one's own."""

from functools import cached_property
from pathlib import Path
from typing import Literal

from seqmix.data.files import data_folder, read_file
from seqmix.data.series.labeled import SeriesData, facts_of
from seqmix.data.series.ts_file import TsFile, read_ts
from seqmix.errors import DataError

_URL = "https://www.timeseriesclassification.com"
# channels, longest series, classes: known without the files
_KNOWN = {
    "ACSF1": (1, 1460, "0 1 2 3 4 5 6 7 8 9"),
    "ArrowHead": (1, 251, "0 1 2"),
    "BasicMotions": (6, 100, "Standing Running Walking Badminton"),
    "GunPoint": (1, 150, "1 2"),
    "ItalyPowerDemand": (1, 24, "1 2"),
    "JapaneseVowels": (12, 29, "1 2 3 4 5 6 7 8 9"),
    "OSULeaf": (1, 427, "1 2 3 4 5 6"),
    "PLAID": (1, 1344, "0 1 2 3 4 5 6 7 8 9 10"),
}


class UCR(SeriesData):
    """A data set of the UCR or UEA archive, with the published training and test series.

    ``<name>_TRAIN.ts`` and ``<name>_TEST.ts``, or these with ``.gz``, are looked for below the data folder in
    ``ucr_uea/<name>``, ``Univariate_ts/<name>``, ``Multivariate_ts/<name>`` and ``<name>``. They are not downloaded:
    the archive at timeseriesclassification.com has them.

    Args:
        name: name of the data set, for example ``GunPoint`` (UCR) or ``JapaneseVowels`` (UEA).
        root: the data folder. Default: ``$SEQMIX_DATA``, else ``./data``.

    Raises:
        DataError: if a file is not there or cannot be used.

    Source: Dau et al., 2019, arXiv:1810.07758; Bagnall et al., 2018, arXiv:1811.00075. Differs from the original code
    in: results there are of the test series after training on all training series; that is ``val_share=0``.
    """

    def __init__(
        self,
        name: str,
        batch_size: int = 16,
        *,
        root: str | None = None,
        val_share: float = 0.2,
        split_seed: int = 0,
        normalize: Literal["none", "series", "train"] = "train",
        eval_batch_size: int | None = 64,
        seed: int | None = None,
    ):
        self.name, self.root = name, root
        if name in _KNOWN:
            n_channels, max_len, classes = _KNOWN[name]
            class_names = tuple(classes.split())
        else:
            class_names, n_channels, max_len = facts_of(*self._read, name)
        super().__init__(
            name,
            class_names,
            n_channels,
            max_len,
            batch_size,
            val_share=val_share,
            split_seed=split_seed,
            normalize=normalize,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )

    def _files(self) -> tuple[TsFile, TsFile]:
        found = facts_of(*self._read, self.name)
        if found != (self.class_names, self.n_channels, self.max_len):
            raise DataError(
                f"{self.name} is not the published data set: it has {len(found[0])} classes, {found[1]} channels and "
                f"series of up to {found[2]:,} time steps, not {self.n_classes}, {self.n_channels} and "
                f"{self.max_len:,}; get it from {_URL}, or read your own files with SeriesFiles"
            )
        return self._read

    @cached_property
    def _read(self) -> tuple[TsFile, TsFile]:
        folder = data_folder(self.root)
        places = [folder / part / self.name for part in ("ucr_uea", "Univariate_ts", "Multivariate_ts", "")]
        names = [f"{self.name}_{split}.ts{end}" for end in ("", ".gz") for split in ("TRAIN", "TEST")]
        for place in places:
            for pair in (names[:2], names[2:]):
                train, test = (place / name for name in pair)
                if train.is_file() and test.is_file():
                    return read_pair(train, test)
        raise DataError(
            f"{names[0]} and {names[1]} not found below {folder}; download {self.name} from {_URL} into {places[0]}, "
            "or set data.root (or SEQMIX_DATA)"
        )


class SeriesFiles(SeriesData):
    """Labeled series in two files of one's own, in the ``.ts`` format.

    Args:
        train: file of the training series, ``.ts`` or ``.ts.gz``.
        test: file of the test series.

    Raises:
        DataError: if a file cannot be used.
    """

    def __init__(
        self,
        train: str,
        test: str,
        batch_size: int = 16,
        *,
        val_share: float = 0.2,
        split_seed: int = 0,
        normalize: Literal["none", "series", "train"] = "train",
        eval_batch_size: int | None = 64,
        seed: int | None = None,
    ):
        self.train, self.test = train, test
        self._read = read_pair(Path(train), Path(test))
        name = Path(train).name.partition(".")[0].removesuffix("_TRAIN")
        super().__init__(
            name,
            *facts_of(*self._read, name),
            batch_size,
            val_share=val_share,
            split_seed=split_seed,
            normalize=normalize,
            eval_batch_size=eval_batch_size,
            seed=seed,
        )

    def _files(self) -> tuple[TsFile, TsFile]:
        return self._read


def read_pair(train: Path, test: Path) -> tuple[TsFile, TsFile]:
    """A training and a test file."""
    return read_ts(read_file(train), train.name), read_ts(read_file(test), test.name)
