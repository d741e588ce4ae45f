"""M4: short-term forecasting of many series of different length, beside the forecasts of Naive2."""

import csv
import io
from collections.abc import Mapping
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from typing_extensions import Self

from seqmix.data.files import Source, read_published
from seqmix.data.loader import Gathered
from seqmix.data.series.naive2 import naive2
from seqmix.data.series.windows import Windows
from seqmix.data.served import Served, Split, check_positive
from seqmix.errors import check_choice
from seqmix.series import Series


class Facts(NamedTuple):
    """Published facts about a set of M4."""

    season: int  # that of MASE and Naive2, in time steps
    horizon: int
    train: Source
    test: Source


class M4(Served):
    """Hourly (414) or weekly (359) series of the M4 competition: ``{"x": (B, context, 1), "y": (B, horizon, 1)}``.

    The last horizon of the published training part is validation, one window for each series; the test windows are the
    published ones. Each series is divided by the mean absolute error of the seasonal naive forecast in its training
    part, so that a mean absolute error is a MASE, and an sMAPE is what it was; ``scale`` ``(n_series,)`` undoes it.
    Validation and test batches hold ``"naive2": (B, horizon, 1)``, the forecasts of Naive2. Where the context reaches
    back before the first value of a series, ``"x_mask"`` is False.

    Args:
        name: the set.
        context: lookback length, in time steps. Default: two horizons, as in TSLib.
        recent: training windows forecast one of the last ``recent`` horizons before the validation horizon.
        root: the data folder. Default: ``$SEQMIX_DATA``, else ``./data``.

    Raises:
        DataError: if a file can be neither found nor fetched, or is not the published one.

    Source: Makridakis et al., 2020, International Journal of Forecasting 36(1); recent windows after N-BEATS, Oreshkin
    et al., 2020, arXiv:1905.10437, sec. 3.4. Differs from the original code in: nothing.
    """

    #: names of the series; there after ``setup``
    ids: list[str]
    #: what each series is divided by; there after ``setup``
    scale: Tensor

    def __init__(
        self,
        name: Literal["Hourly", "Weekly"] = "Hourly",
        context: int | None = None,
        batch_size: int = 128,
        *,
        recent: int = 10,
        root: str | None = None,
        eval_batch_size: int | None = None,
        seed: int | None = None,
    ):
        check_choice("name", name, tuple(_FACTS))
        super().__init__(f"M4-{name}", batch_size, eval_batch_size=eval_batch_size, seed=seed)
        self._facts, self.root, self.recent = _FACTS[name], root, recent
        self.horizon = self._facts.horizon
        self.context = 2 * self.horizon if context is None else context
        check_positive(context=self.context, recent=recent)

    @property
    def series(self) -> Series:
        """The facts of the data for models."""
        return Series(1, self.context, self.horizon, season=self._facts.season)

    def _read(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Training and test part of each series, by name."""
        train, test = (_rows(read_published(each, self.root)) for each in (self._facts.train, self._facts.test))
        return {name: (values, test[name]) for name, values in train.items()}

    def _make(self) -> Mapping[Split, Gathered]:
        """Read, divide and index the series."""
        found, season, H = self._read(), self._facts.season, self.horizon
        self.ids = list(found)
        scale = np.array([np.abs(y[season:] - y[:-season]).mean() for y, _ in found.values()])
        self.scale = torch.from_numpy(scale).float()
        n = np.array([len(y) for y, _ in found.values()])
        # the first horizon of a series is not a target: it has no lookback
        first = np.maximum(H, n - (1 + self.recent) * H)
        pads = np.maximum(0, self.context - first)
        indptr = torch.from_numpy(np.r_[0, np.cumsum(pads + n + H)])
        parts = [
            np.r_[np.zeros(pad), np.r_[y, ahead] / unit]
            for (y, ahead), unit, pad in zip(found.values(), scale, pads, strict=True)
        ]
        mask = [np.arange(pad + size + H) >= pad for pad, size in zip(pads, n, strict=True)]
        # the three splits share one copy
        values, seen = (torch.from_numpy(np.concatenate(each))[:, None] for each in (parts, mask))
        values = values.float()

        def windows(begin: np.ndarray, end: np.ndarray) -> Windows:
            return Windows(
                values,
                indptr,
                self.context,
                H,
                targets=torch.from_numpy(np.stack([begin, end], 1) + pads[:, None]),
                mask=seen if pads.any() else None,
                ids=self.ids,
            )

        def naive(held_back: int) -> Tensor:
            pasts = [y[: len(y) - held_back] for y, _ in found.values()]
            ahead = np.stack([naive2(y, season, H) / unit for y, unit in zip(pasts, scale, strict=True)])
            return torch.from_numpy(ahead).float()[:, :, None]

        return {
            "train": windows(first, n - H),
            "val": BesideNaive2(windows(n - H, n), naive(H)),
            "test": BesideNaive2(windows(n, n + H), naive(0)),
        }


class BesideNaive2(Gathered):
    """Windows with the forecasts of Naive2 for each, ``(n, horizon, 1)``."""

    def __init__(self, windows: Windows, naive2: Tensor):
        self.windows, self.naive2 = windows, naive2

    def __len__(self) -> int:
        return len(self.windows)

    def gather(self, index: Tensor) -> dict[str, Tensor]:
        return {**self.windows.gather(index), "naive2": self.naive2[index]}

    def to(self, device: torch.device | str) -> Self:
        """The same windows on ``device``."""
        moved = super().to(device)
        moved.windows = self.windows.to(device)
        return moved


def _rows(content: bytes) -> dict[str, np.ndarray]:
    """Values of each series by its name; rows are as long as the longest series."""
    table = csv.reader(io.StringIO(content.decode("ascii")))
    next(table)
    return {name: np.array([float(cell) for cell in cells if cell]) for name, *cells in table}


def _source(name: str, size: int, sha256: str) -> Source:
    folder = "Train" if "train" in name else "Test"
    url = f"https://raw.githubusercontent.com/Mcompetitions/M4-methods/master/Dataset/{folder}/{name}.csv"
    return Source((f"m4/{name}.csv",), url, size, sha256)


_FACTS = {
    "Hourly": Facts(
        24,
        48,
        _source("Hourly-train", 2347115, "ea59b7783573c49077a835ab6465c7d66f1474783360f310988a9a737fbca62f"),
        _source("Hourly-test", 132820, "71a57fccb15e534d973626ada4fb87febf789e9317715b7cc6dd3b5f90db6f42"),
    ),
    "Weekly": Facts(
        1,
        13,
        _source("Weekly-train", 4015067, "d478d3f6ed673e6ed3c2cb0fbed5425f72eedd51318ebebeb0b5ecfcefc37714"),
        _source("Weekly-test", 44247, "3b2bc4be8e636e802260dcd843ca3c5da40536a1fbe1ecb3229a97dae4f44688"),
    ),
}
