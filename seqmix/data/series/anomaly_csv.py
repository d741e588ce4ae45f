"""A user's CSV file as data of anomaly detection, with a column of labels or without."""

from pathlib import Path

import numpy as np

from seqmix.data.files import read_file
from seqmix.data.series.detection_data import AnomalySeries, DetectionData, check_train_share
from seqmix.data.series.wide_csv import read_wide
from seqmix.errors import DataError


class AnomalyCSV(DetectionData):
    """A CSV file (plain or ``.gz``): a time column, columns of numbers, and perhaps one of labels.

    Without labels a test has no metrics, which are then NaN. Every complaint names the file and the place in it.

    Args:
        path: the file.
        columns: the channels. Default: every column but those of times and labels.
        time_col: column of time stamps. Default: the first.
        label_col: column of labels, 1 for an anomalous row and 0 for others. Default: there is none.
        train_share: share of the rows, from the first one, that is for training.

    Raises:
        ConfigError: if a share is out of range.
        DataError: if the file cannot be used as it is.
    """

    def __init__(
        self,
        path: str,
        window: int = 64,
        batch_size: int = 128,
        *,
        columns: list[str] | None = None,
        time_col: str | None = None,
        label_col: str | None = None,
        train_share: float = 0.5,
        eval_batch_size: int | None = None,
        stride: int = 1,
        val_share: float = 0.2,
        seed: int | None = None,
    ):
        check_train_share(train_share)
        self.path, self.columns, self.time_col, self.label_col = path, columns, time_col, label_col
        self.train_share = train_share
        # the first lines are enough for the number of channels
        values, _ = self._read(lines=100)
        super().__init__(
            Path(path).name,
            values.shape[1],
            window,
            batch_size,
            eval_batch_size=eval_batch_size,
            stride=stride,
            val_share=val_share,
            seed=seed,
        )

    def _load(self) -> list[AnomalySeries]:
        values, labels = self._read()
        return [AnomalySeries(self.name, values, labels, int(self.train_share * len(values)))]

    def _read(self, lines: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        path = Path(self.path)
        content = read_file(path, lines)
        wanted = None if self.columns is None else [*self.columns, *([self.label_col] if self.label_col else [])]
        values, _, names = read_wide(content, path.name, columns=wanted, time_col=self.time_col)
        if self.label_col is None:
            return values, np.zeros(len(values), np.int64)
        if self.label_col not in names:
            raise DataError(f"{path.name} has no column {self.label_col!r} of labels; it has {', '.join(names)}")
        at = names.index(self.label_col)
        return np.delete(values, at, axis=1), values[:, at]
