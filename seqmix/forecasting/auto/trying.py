"""Trials of single models: forecasts of the held-out rows within the remaining budget."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd

from seqmix.forecasting.auto.budget import Budget
from seqmix.forecasting.auto.holdout import Holdout
from seqmix.forecasting.auto.parts import Found, Learned, Local, Part
from seqmix.forecasting.auto.portfolio import Candidate
from seqmix.forecasting.auto.spread import BOUNDS
from seqmix.forecasting.fitting import fit
from seqmix.forecasting.frame import Reading
from seqmix.forecasting.long import Long, picked
from seqmix.whole import raise_refusal

# seconds below which nothing is trained
_LEAST = 1.0
# series on which the cost of the others is measured
_PILOT = 8


@dataclass
class Trial:
    """Result of trying one model.

    Args:
        candidate: the model.
        found: its forecasts of the held-out rows. None: it has none.
        seconds: wall time that it took.
        note: the reason if there are none, or other information.
    """

    candidate: Candidate
    found: Found | None = None
    seconds: float = 0.0
    note: str = ""


@dataclass
class Workshop:
    """Builder of the parts of a portfolio from one frame and its options.

    Args:
        long: the frame.
        static: static covariates of its series.
        reading: how the frame was read.
        options: those of the Forecaster, as plain values.
        val_size: validation rows of the whole frame.
        stage: what the fit is for.
        budget: the clock.
        kept: last rows of the series, for local models.
        season: steps of the season.
    """

    long: Long
    static: pd.DataFrame | None
    reading: Reading
    options: Mapping[str, Any]
    val_size: int | str | np.ndarray
    stage: str
    budget: Budget
    kept: tuple[np.ndarray, np.ndarray]
    season: int = 1
    #: seconds that the training of each model may take
    limits: dict[str, float] = field(default_factory=dict)

    def part(self, candidate: Candidate, long: Long | None = None) -> Part:
        """The model fitted to the rows ``long``. Default: those of the frame."""
        if candidate.local is not None:
            return Local(candidate.name, candidate.local, self.season, self.kept)
        bare = candidate.bare
        reading = replace(self.reading, past=(), future=(), static=()) if bare else self.reading
        options = {**self.options, "model": candidate.model, "calendar": self.options["calendar"] and not bare}
        if candidate.trained:
            limit = timedelta(seconds=max(_LEAST, self.limits.get(candidate.name, self.budget.left)))
            options["trainer_kwargs"] = {"max_time": limit, **(options["trainer_kwargs"] or {})}
        if candidate.cls.pretrained:
            options["max_steps"] = 0
        rows, val_size = (self.long, self.val_size) if long is None else (long, "auto")
        fitted = fit(rows, None if bare else self.static, reading, options, val_size, self.stage)
        return Learned(candidate.name, fitted, candidate.model, bare=bare)

    def trial(self, candidate: Candidate, test: Holdout | None, later: int) -> Trial:
        """Try a model: its forecasts, or the reason why there are none.

        Args:
            candidate: the model.
            test: the held-out rows, if there are any.
            later: how many models will be trained after this one.
        """
        if test is None:
            return Trial(candidate, note="not tested: no series is long enough")
        started = time.perf_counter()
        try:
            found, note = self._tried(candidate, test, later)
        # a model may fail of anything but a full disk, and the others go on
        except Exception as e:
            raise_refusal(e)
            found, note = None, f"failed: {type(e).__name__}: {' '.join(str(e).split())}"
        seconds = time.perf_counter() - started
        if found is not None and not np.isfinite(found.point).any():
            found, note = None, "failed: no forecast is a number"
        return Trial(candidate, found, seconds, note)

    def _tried(self, candidate: Candidate, test: Holdout, later: int) -> tuple[Found | None, str]:
        left = self.budget.left
        if not candidate.trained:
            seconds = self._learning(candidate, test) if candidate.cls.closed_form else 0.0
            if seconds > left:
                return None, _short(seconds, left)
            part = self.part(candidate, test.train)
            seconds += self._cost(part, test)
            if seconds > left:
                return None, _short(seconds, left)
            return self._backtest(part, test), ""
        # the same again for the fit to all rows, and for the models after it
        limit = left / (2 * (later + 1))
        if limit < _LEAST:
            return None, f"left out: {max(left, 0):.0f} s were left"
        self.limits[candidate.name] = limit
        started = time.perf_counter()
        part = self.part(candidate, test.train)
        self.limits[candidate.name] = took = time.perf_counter() - started
        self.budget.reserved += took
        return self._backtest(part, test), f"training stopped after {limit:.0f} s" if took > limit else ""

    def _backtest(self, part: Part, test: Holdout) -> Found:
        return part.backtest(test.long, self.static, test.rows, self.options["horizon"], BOUNDS)

    def _learning(self, candidate: Candidate, test: Holdout) -> float:
        """Seconds that two fits in closed form will take, of all series and before the first cutoff."""
        n, few = len(test.train.ids), []
        if n <= 8 * _PILOT:
            return 0.0
        for size in (_PILOT, 4 * _PILOT):
            started = time.perf_counter()
            self.part(candidate, picked(test.train, np.arange(size)))
            few.append(time.perf_counter() - started)
        # marginal cost of a series, without the fixed cost
        each = max(few[1] - few[0], 0.0) / (3 * _PILOT)
        return 2 * (few[0] + each * n)

    def _cost(self, part: Part, test: Holdout) -> float:
        """Seconds that the backtest and the forecast of all series will take."""
        n = len(test.long.ids) * len(test.rows) + len(self.long.ids)
        first = self._timed(part, test, 1)
        if first * n > self.budget.left:
            # the first call of a model may load it
            first = min(first, self._timed(part, test, 1))
        if first * n < self.budget.left or first * _PILOT > self.budget.left / 4:
            return first * n
        # many at once cost less than one by one
        return first + max(self._timed(part, test, _PILOT) - first, 0.0) / (_PILOT - 1) * n

    def _timed(self, part: Part, test: Holdout, n: int) -> float:
        started = time.perf_counter()
        few = picked(test.long, np.arange(min(n, len(test.long.ids))))
        part.backtest(few, self.static, test.rows[:1], self.options["horizon"], ())
        return time.perf_counter() - started


def _short(seconds: float, left: float) -> str:
    return f"left out: it needs {seconds:.0f} s, and {max(left, 0):.0f} s were left"
