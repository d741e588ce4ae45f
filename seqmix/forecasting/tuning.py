"""AutoTune: hyper-parameter search for a Forecaster on held-out last rows."""

import time
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from seqmix.errors import ConfigError, DataError
from seqmix.estimator import Estimator
from seqmix.forecasting import options
from seqmix.forecasting.folder import read_long
from seqmix.forecasting.forecaster import Forecaster
from seqmix.forecasting.frame import Reading
from seqmix.forecasting.kind import maybe_pandas
from seqmix.whole import raise_refusal

# torch and optuna load with the search, not with the name
if TYPE_CHECKING:
    from seqmix.forecasting.auto.budget import Budget
    from seqmix.forecasting.auto.holdout import Holdout
    from seqmix.forecasting.factory import Choice
    from seqmix.search import Space

# options of the Forecaster that a space may name, beside model.<option>
_SEARCHED = (
    *("context_length", "loss", "normalize", "scaler", "mode", "calendar"),
    *("max_steps", "batch_size", "learning_rate", "early_stopping"),
)
_MODEL = "model."
# contexts that are tried, in horizons or seasons, whichever is longer
_MULTIPLES = (1, 2, 3, 4, 6)
# seconds below which no training begins
_LEAST = 1.0


class AutoTune(Estimator):
    """Search the options of a Forecaster, then fit it with the best ones.

    ``AutoTune(Forecaster("TSM2", horizon=24), trials=20).fit(df).forecaster_.predict()``. Each trial is fitted to the
    rows before the last few horizons, and compared there by MASE, as the models of ``auto`` are; the first has the
    given options. The search is Optuna's (extra ``scale``); the same seed gives the same trials, unless the budget ends
    it. After ``fit``, ``forecaster_`` is the Forecaster with the best options, fitted to all rows,
    ``best_params_`` has these options and ``trials_`` a row for each trial.

    Args:
        forecaster: the Forecaster, with one model, fitted or not.
        trials: number of trials.
        space: options of the Forecaster and, as ``model.d_model``, of its model, with values: a list, or
            ``int:LOW:HIGH[:STEP]``, ``float:LOW:HIGH[:STEP]``, ``log:LOW:HIGH``. Default: learning rate, context and
            normalization where the Forecaster leaves them open, and what the class of the model says (``searched``).
        budget: time for the search and the last fit: seconds, or text such as ``5min``. Default: no limit.
        seed: seed of the search.
    """

    forecaster_: Forecaster
    best_params_: dict[str, Any]
    trials_: pd.DataFrame

    def __init__(
        self,
        forecaster: Forecaster,
        *,
        trials: int = 20,
        space: Mapping[str, Any] | None = None,
        budget: str | float | pd.Timedelta | None = None,
        seed: int = 0,
    ):
        self.forecaster, self.trials, self.space, self.budget, self.seed = forecaster, trials, space, budget, seed
        if not isinstance(forecaster, Forecaster):
            raise ConfigError(
                f"forecaster should be a Forecaster, got {forecaster!r}; use Forecaster('TSM2', horizon=24)"
            )
        model = forecaster.model
        if model == options.AUTO or isinstance(model, list | tuple):
            raise ConfigError(f"AutoTune searches the options of one model, got {model!r}; tune one after another")
        options.whole("trials", trials, 1, False)
        options.whole("seed", seed, 0, False)
        if budget is not None:
            options.seconds("budget", budget)
        if space is not None and (not isinstance(space, Mapping) or not space):
            raise ConfigError(
                f"space should have options and values, got {space!r}; use {{'learning_rate': 'log:1e-3:1e-2'}}"
            )

    def fit(
        self,
        df: Any,
        *,
        static_df: Any = None,
        id_col: str = "unique_id",
        time_col: str = "ds",
        target_col: str = "y",
        weight_col: str | None = None,
    ) -> "AutoTune":
        """Search, then fit the Forecaster with the best options to all rows.

        Args:
            df: long frame, one row per series and time, or a folder of parquet files, as in ``Forecaster.fit``.
            static_df: static covariates, one row per series. Default: columns of ``df``.
            id_col: column that names the series; a frame without it is one series.
            time_col: column of dates or integers.
            target_col: column of the values.
            weight_col: column of sample weights.

        Raises:
            ConfigError: if the space names what is not an option, or no trial has a result.
            DataError: if no series is long enough.
        """
        from seqmix.forecasting.auto.budget import Budget
        from seqmix.forecasting.auto.holdout import make_holdout

        clock = Budget(np.inf if self.budget is None else options.seconds("budget", self.budget))
        given = options.resolved(self.forecaster.get_params())
        how = options.reading(given, id_col, time_col, target_col, weight_col)
        long = read_long(df, how)
        test = make_holdout(long, given["horizon"], given["season"] or long.clock.season, self.seed, given["mode"])
        if test is None:
            raise DataError(
                f"no series is long enough to hold out {given['horizon']} rows, the longest has "
                f"{np.diff(long.indptr).max()}; give longer series, or fit the Forecaster as it is"
            )
        space = self._space(given, test)
        best = self._search(space, test, maybe_pandas(static_df), how, clock)
        self.best_params_ = best
        self.forecaster_ = self._with(best).fit(
            df,
            static_df=static_df,
            id_col=id_col,
            time_col=time_col,
            target_col=target_col,
            weight_col=weight_col,
        )
        return self

    def _space(self, given: Mapping[str, Any], test: "Holdout") -> "Space":
        """The space; every value in it is one that its option takes."""
        from seqmix.forecasting.factory import choices
        from seqmix.search import dimension

        (choice,) = choices(given["model"], given["model_kwargs"])
        known = [*_SEARCHED, *(f"{_MODEL}{name}" for name in _own(choice))]
        found = _default_space(given, choice, test) if self.space is None else self.space
        for name in found:
            if name not in known:
                raise ConfigError(f"space: {choice.name} has no option {name!r} to search; it has {', '.join(known)}")
        space = {name: dimension(name, values) for name, values in found.items()}
        if not space:
            raise ConfigError(f"{choice.name} has nothing to search with these options; pass space={{...}}")
        for name, values in space.items():
            for value in values.ends:
                self._with({name: value})
        return space

    def _with(self, params: Mapping[str, Any], **more: Any) -> Forecaster:
        """The Forecaster with other options."""
        given = self.forecaster.get_params()
        own = {name.removeprefix(_MODEL): value for name, value in params.items() if name.startswith(_MODEL)}
        plain = {name: value for name, value in params.items() if not name.startswith(_MODEL)}
        kwargs = {**(given["model_kwargs"] or {}), **own} or given["model_kwargs"]
        return Forecaster(**{**given, **plain, "model_kwargs": kwargs, **more})

    def _search(
        self, space: "Space", test: "Holdout", static: pd.DataFrame | None, how: Reading, clock: "Budget"
    ) -> dict[str, Any]:
        """Run the trials; the options of the best."""
        from optuna.trial import TrialState

        from seqmix.search import combinations, drawn, make_study

        study = make_study("AutoTune", maximize=False, pruner="none", seed=self.seed)
        wanted, rows, known = min(self.trials, 1 + combinations(space)), [], {}
        # a repeated draw gets the known result, and the search draws again
        for number in range(10 * self.trials):
            if len(rows) == wanted or (rows and clock.left < 2 * max(row["seconds"] for row in rows)):
                # the fit to all rows takes as long as a trial
                break
            trial = study.ask()
            # the first has the options as they are
            params = drawn(trial, space) if number else {}
            key = tuple(map(repr, params.values()))
            if key not in known:
                rows.append(self._trial(params, test, static, how, clock))
                known[key] = rows[-1]["mase"]
                if self.forecaster.verbose:
                    print(f"{len(rows)}/{wanted}  {rows[-1]}", flush=True)
            if np.isfinite(known[key]):
                study.tell(trial, known[key])
            else:
                study.tell(trial, state=TrialState.FAIL)
        columns = ["mase", "seconds", *space, "note"]
        self.trials_ = pd.DataFrame(rows, columns=columns)
        if not self.trials_["mase"].notna().any():
            raise ConfigError(f"no trial has a result, the first: {rows[0]['note']}; search other values")
        best = rows[int(np.nanargmin(self.trials_["mase"]))]
        return {name: best[name] for name in space if name in best}

    def _trial(
        self, params: dict[str, Any], test: "Holdout", static: pd.DataFrame | None, how: Reading, clock: "Budget"
    ) -> dict[str, Any]:
        """A row of ``trials_``: MASE on the rows that are held out, or why there is none."""
        started, mase, note = time.perf_counter(), np.nan, ""
        try:
            mase = _error(options.resolved(self._with(params, levels=None).get_params()), test, static, how, clock)
            note = "" if np.isfinite(mase) else "failed: no forecast is a number"
        # a trial may fail of anything but a full disk, and the others go on
        except Exception as e:
            raise_refusal(e)
            note = f"failed: {type(e).__name__}: {' '.join(str(e).split())}"
        return {"mase": mase, "seconds": time.perf_counter() - started, **params, "note": note}


def _error(given: dict[str, Any], test: "Holdout", static: pd.DataFrame | None, how: Reading, clock: "Budget") -> float:
    """MASE, on the rows that are held out, of a model that was fitted to those before them."""
    from seqmix.forecasting.auto.parts import Learned
    from seqmix.forecasting.auto.weights import errors_of
    from seqmix.forecasting.fitting import fit

    if np.isfinite(clock.left):
        limit = timedelta(seconds=max(_LEAST, clock.left / 2))
        given["trainer_kwargs"] = {"max_time": limit, **(given["trainer_kwargs"] or {})}
    fitted = fit(test.train, static, how, given, "auto", "trial")
    found = Learned("", fitted, given["model"], bare=False).backtest(test.long, static, test.rows, given["horizon"], ())
    return float(errors_of(found.point[None], test.truth, test.unit)[0])


def _default_space(given: Mapping[str, Any], choice: "Choice", test: "Holdout") -> dict[str, Any]:
    """Default search space: open options of the Forecaster, and ``searched`` of the model."""
    cls, space = choice.cls, {}
    if not cls.closed_form and given["learning_rate"] is None:
        space["learning_rate"] = "log:5e-5:1e-3" if cls.pretrained else "log:1e-3:2e-2"
    if cls.pretrained:
        # context, normalization and sizes are fixed by the weights
        return space
    season = given["season"] or test.long.clock.season
    unit = max(given["horizon"], season)
    room = int(np.median(np.diff(test.train.indptr))) - 2 * given["horizon"]
    contexts = [k * unit for k in _MULTIPLES if k * unit <= room]
    if given["context_length"] is None and len(contexts) > 1:
        space["context_length"] = contexts
    if given["normalize"] == "auto" and given["loss"] != "negative_binomial":
        plain = season == 1 or given["future_covariates"] or given["calendar"]
        space["normalize"] = ["window", "last"] if plain else ["window", "last", "season"]
    own = [name for name in _own(choice) if name not in (given["model_kwargs"] or {})]
    return space | {f"{_MODEL}{name}": list(values) for name, values in cls.searched.items() if name in own}


def _own(choice: "Choice") -> list[str]:
    """Names of the options of the model."""
    return choice.cls.takes(choice.factory.keywords if isinstance(choice.factory, partial) else {})
