"""The parts of an ensemble: fitted models of seqmix, and models that are fitted to each series alone."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from torch import Tensor

from seqmix.forecasting.auto.histories import histories
from seqmix.forecasting.fitted import Fitted
from seqmix.forecasting.joined import Joined
from seqmix.forecasting.long import Long
from seqmix.forecasting.member import Member
from seqmix.forecasting.packing import pack

# from histories (n, T), season and horizon to forecasts (n, horizon)
LocalModel = Callable[[np.ndarray, int, int], np.ndarray]
# rows of a series that a local model sees, and series per block
LONGEST = 1000
_CHUNK = 2048


class Found(NamedTuple):
    """Forecasts of one part of an ensemble.

    Args:
        point: point forecasts, ``(n, horizon)``, or ``(n, K, horizon)`` from K cutoffs; NaN where there is none.
        spread: quantiles of a model that forecasts them, ``(..., Q)``; None for a point forecast.
    """

    point: np.ndarray
    spread: np.ndarray | None


class Part(ABC):
    """One model of an ensemble, with the methods of ``Fitted`` on arrays."""

    name: str
    #: its trained models
    members: Sequence[Member] = ()

    @abstractmethod
    def forecast(
        self,
        long: Long | None,
        static: pd.DataFrame | None,
        future: pd.DataFrame | None,
        horizon: int,
        quantiles: Sequence[float],
    ) -> Found:
        """Forecasts after the last rows of ``long``, or of the frame of the fit, ``(n, horizon)``."""

    @abstractmethod
    def backtest(
        self, long: Long, static: pd.DataFrame | None, rows: np.ndarray, horizon: int, quantiles: Sequence[float]
    ) -> Found:
        """Forecasts from cutoffs ``rows`` ``(K,)`` before the end of each series, ``(n, K, horizon)``."""

    @abstractmethod
    def packed(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The fitted state as facts for JSON and tensors."""


class Learned(Part):
    """A model of seqmix, fitted to all series.

    Args:
        name: its name in the leaderboard.
        fitted: the model.
        model: name, class or partial that it was made from.
        bare: the model gets no covariates, as it uses none.
    """

    def __init__(self, name: str, fitted: Fitted | Joined, model: Any, *, bare: bool):
        self.name, self.fitted, self.model, self.bare = name, fitted, model, bare
        self.members = fitted.members
        (self.column,) = [member.name for member in fitted.members]

    def forecast(
        self,
        long: Long | None,
        static: pd.DataFrame | None,
        future: pd.DataFrame | None,
        horizon: int,
        quantiles: Sequence[float],
    ) -> Found:
        static, future = (None, None) if self.bare else (static, future)
        wanted = self._served(quantiles)
        return self._found(self.fitted.forecast(long, static, future, horizon, [], wanted), (-1, horizon), wanted)

    def backtest(
        self, long: Long, static: pd.DataFrame | None, rows: np.ndarray, horizon: int, quantiles: Sequence[float]
    ) -> Found:
        static, wanted = None if self.bare else static, self._served(quantiles)
        return self._found(self.fitted.backtest(long, static, rows, [], wanted), (-1, len(rows), horizon), wanted)

    def packed(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The fitted model."""
        return pack({"model": self.model, "model_kwargs": None}, self.fitted)

    def _served(self, quantiles: Sequence[float]) -> Sequence[float]:
        return quantiles if self.members[0].plan.spread else []

    def _found(self, frame: pd.DataFrame, shape: tuple[int, ...], quantiles: Sequence[float]) -> Found:
        columns = [frame[f"{self.column}_q{q:g}"].to_numpy(float).reshape(shape) for q in quantiles]
        return Found(frame[self.column].to_numpy(float).reshape(shape), np.stack(columns, -1) if columns else None)


class Local(Part):
    """A local model: fitted to each series alone, each time it forecasts.

    Args:
        name: its name in the leaderboard.
        model: the function.
        season: steps of the season.
        kept: the last rows of the series of the fit, ``(rows,)``, and where each series begins, ``(n + 1,)``.
    """

    def __init__(self, name: str, model: LocalModel, season: int, kept: tuple[np.ndarray, np.ndarray]):
        self.name, self.model, self.season, self.kept = name, model, season, kept

    def forecast(
        self,
        long: Long | None,
        static: pd.DataFrame | None,
        future: pd.DataFrame | None,
        horizon: int,
        quantiles: Sequence[float],
    ) -> Found:
        y, indptr = self.kept if long is None else (long.y, long.indptr)
        return Found(self._run(y, indptr, np.zeros(1, int), horizon)[:, 0], None)

    def backtest(
        self, long: Long, static: pd.DataFrame | None, rows: np.ndarray, horizon: int, quantiles: Sequence[float]
    ) -> Found:
        return Found(self._run(long.y, long.indptr, rows, horizon), None)

    def packed(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """No state: the model is fitted when it forecasts."""
        return {}, {}

    def _run(self, y: np.ndarray, indptr: np.ndarray, rows: np.ndarray, horizon: int) -> np.ndarray:
        """Forecasts from the cutoffs ``rows`` ``(K,)`` before the end of each series, ``(n, K, horizon)``."""
        parts, step = [], max(1, _CHUNK // len(rows))
        for a in range(0, len(indptr) - 1, step):
            cut = indptr[a : a + step + 1]
            # all cutoffs at once: a model goes over the time steps in a loop
            found = histories(y, cut, rows, LONGEST)
            parts.append(self.model(found.reshape(-1, found.shape[-1]), self.season, horizon))
        return np.concatenate(parts).reshape(-1, len(rows), horizon)


def tails(long: Long) -> tuple[np.ndarray, np.ndarray]:
    """The history of local models: the last rows of each series, and where each begins."""
    begin = np.maximum(long.indptr[:-1], long.indptr[1:] - LONGEST)
    lengths = long.indptr[1:] - begin
    kept = [np.asarray(long.y[a:b]) for a, b in zip(begin, long.indptr[1:], strict=True)]
    return np.concatenate(kept), np.r_[0, np.cumsum(lengths)]
