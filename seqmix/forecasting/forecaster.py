"""The Forecaster: from a DataFrame to forecasts in a DataFrame, with the same task and windows as the command line.

Names of columns are those of the field: ``unique_id, ds, y`` in, ``<Model>``, ``<Model>-lo-90``, ``<Model>-hi-90`` out,
and ``cutoff`` in cross-validation.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from seqmix.errors import NotFittedError
from seqmix.forecasting import options
from seqmix.forecasting._estimator import Estimator
from seqmix.forecasting.folder import read_long
from seqmix.forecasting.frame import Reading, followed, stamped, with_ids
from seqmix.forecasting.kind import Kind, kind_of, to_pandas
from seqmix.forecasting.long import Long

# torch, lightning and matplotlib load with the first call that needs them, not with the name
if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from seqmix.forecasting.fitted import Fitted


class Forecaster(Estimator):
    """Forecasts of many series from a long DataFrame, by any model of seqmix, or any mixer in one.

    ``Forecaster("TSM2", horizon=24).fit(df).predict()``. *Global* models see each series as a sample. Where series have
    the same time stamps TSM2 forecasts them together, *multivariate*; ``mode_`` says which it was. Each series is
    scaled by its own training rows, and the last rows of each are kept for early stopping and for intervals.

    Args:
        model: name of a model or mixer (``TSM2``, ``DLinear``, ``Hydra``), a class, a ``functools.partial``, or a list
            of them, which gives a column each.
        horizon: steps to forecast.
        context_length: steps that a model sees; None: three horizons, or what is usual for the frequency, two weeks of
            hours for example, if that is longer.
        freq: step between rows, an alias of pandas or an integer; None infers it.
        season: steps of the season for SeasonalNaive and MASE; None: that of the frequency.
        loss: what training minimizes: ``mse``, ``mae``, ``huber``, ``quantile``, ``normal``, ``student_t``,
            ``negative_binomial``, or what makes a module.
        levels: coverage in percent of the intervals that predict gives, for example ``[80, 95]``.
        conformal: move the intervals of quantiles and distributions too until they hold the validation rows as often as
            they should, at ``levels``; those of point forecasts always are made from them.
        normalize: ``window``, ``last``, ``season`` or ``none``, as in the Forecasting task; ``auto`` is ``season``, or
            ``window`` with known-future inputs or without a season.
        scaler: how training rows scale each series: ``season`` by the mean absolute error of the season before, so that
            series weigh as in MASE, ``standard`` by the deviation, ``none`` not at all; ``auto`` is ``season`` for
            DLinear alone, ``standard`` for models that tell series apart; counts are never scaled.
        mode: ``global``, ``multivariate``, or ``auto``.
        past_covariates: columns known up to the last row.
        future_covariates: columns known for the horizon as well.
        static_covariates: columns that do not change within a series.
        calendar: hour, weekday and so on as known-future inputs.
        missing: what a missing value is: ``mask`` leaves it out, ``error`` refuses it, ``ffill`` repeats the last one.
        fill_gaps: insert missing time steps as missing values.
        fill_value: value of the time steps that ``fill_gaps`` inserts, for example 0 for days without sales. Default:
            missing.
        aggregate: what the values of a step become where rows are finer than ``freq``: ``sum``, ``mean``, ``last`` and
            so on, see ``seqmix.resample``. Default: such rows are refused.
        nonnegative: cut forecasts off at zero; ``auto`` does if no value is below zero.
        short: series too short for a window: ``pad`` puts missing rows before them, ``drop`` leaves them out of
            training, ``error`` refuses them.
        max_steps: most optimizer steps.
        batch_size: windows per step; None: 256 where series are samples, 32 where they are channels.
        learning_rate: peak learning rate of AdamW.
        early_stopping: validations without a better one before training stops; None trains to the end.
        seed: of weights, order and dropout; the generators of the program are left alone.
        device: ``auto``, ``cpu``, ``cuda``, ``mps``.
        verbose: show progress and what was found.
        model_kwargs: options of the model, where there is one.
        trainer_kwargs: options of the Lightning Trainer, above ours.

    Raises:
        ConfigError: if an option cannot have its value.
    """

    fitted_: "Fitted"
    normalize: Literal["auto", "season", "window", "last", "none"]
    scaler: Literal["auto", "season", "standard", "none"]
    missing: Literal["mask", "error", "ffill"]
    short: Literal["pad", "drop", "error"]

    def __init__(
        self,
        model: str | Callable[..., Any] | Sequence[str | Callable[..., Any]],
        horizon: int,
        *,
        context_length: int | None = None,
        freq: str | int | None = None,
        season: int | None = None,
        loss: Any = "mae",
        levels: Sequence[float] | None = None,
        conformal: bool = False,
        normalize: Literal["auto", "season", "window", "last", "none"] = "auto",
        scaler: Literal["auto", "season", "standard", "none"] = "auto",
        mode: Literal["auto", "global", "multivariate"] = "auto",
        past_covariates: Sequence[str] = (),
        future_covariates: Sequence[str] = (),
        static_covariates: Sequence[str] = (),
        calendar: bool = False,
        missing: Literal["mask", "error", "ffill"] = "mask",
        fill_gaps: bool = False,
        fill_value: float | None = None,
        aggregate: str | None = None,
        short: Literal["pad", "drop", "error"] = "pad",
        nonnegative: bool | Literal["auto"] = "auto",
        max_steps: int = 1000,
        batch_size: int | None = None,
        learning_rate: float = 5e-3,
        early_stopping: int | None = 5,
        seed: int = 0,
        device: str = "auto",
        verbose: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        trainer_kwargs: dict[str, Any] | None = None,
    ):
        self.model, self.horizon, self.context_length = model, horizon, context_length
        self.freq, self.season, self.loss, self.levels, self.conformal = freq, season, loss, levels, conformal
        self.normalize, self.scaler, self.mode = normalize, scaler, mode
        self.past_covariates, self.future_covariates = past_covariates, future_covariates
        self.static_covariates, self.calendar, self.missing = static_covariates, calendar, missing
        self.fill_value, self.aggregate = fill_value, aggregate
        self.fill_gaps, self.short, self.max_steps, self.batch_size = fill_gaps, short, max_steps, batch_size
        self.learning_rate, self.early_stopping, self.seed = learning_rate, early_stopping, seed
        self.device, self.verbose, self.model_kwargs = device, verbose, model_kwargs
        self.nonnegative, self.trainer_kwargs = nonnegative, trainer_kwargs
        options.resolved(self.get_params())

    def fit(
        self,
        df: Any,
        *,
        static_df: Any = None,
        val_size: int | Literal["auto"] = "auto",
        val_df: Any = None,
        id_col: str = "unique_id",
        time_col: str = "ds",
        target_col: str = "y",
        weight_col: str | None = None,
    ) -> "Forecaster":
        """Fit the models, and return the Forecaster.

        Args:
            df: long frame, one row for each series and time: pandas, polars or Arrow; or a folder of parquet files,
                each with whole series, whose values are not kept in memory.
            static_df: static covariates, one row for each series; None takes them from ``df``.
            val_size: last rows of each series that are for validation; ``auto`` is a tenth or the horizon, 0 is none.
            val_df: frame that goes on where ``df`` ends, for validation; replaces ``val_size``.
            id_col: column that names the series; a frame without it is one series.
            time_col: column of dates or integers.
            target_col: column of the values.
            weight_col: column of sample weights.

        Raises:
            DataError: for whatever is wrong with the frame.
        """
        how = self._reading(id_col, time_col, target_col, weight_col)
        long, rows = read_long(df, how), val_size
        if val_df is not None:
            long, rows = followed(df, long, to_pandas(val_df), how)
        return self._take(self._learn(long, _frame(static_df), how, rows, "fit"))

    def fit_more(
        self, df: Any, *, static_df: Any = None, max_steps: int = 200, learning_rate: float | None = None
    ) -> "Forecaster":
        """Train the fitted models further, on the same or other series; covariates keep their meaning.

        Args:
            df: long frame with the columns of the first.
            static_df: static covariates, one row for each series.
            max_steps: most further steps.
            learning_rate: peak learning rate; None: the same again.
        """
        from seqmix.forecasting.fitting import fit_more

        before, given = self._fitted(), options.resolved(self.get_params())
        long = read_long(df, before.reading)
        return self._take(fit_more(before, long, _frame(static_df), given, max_steps, learning_rate))

    def predict(
        self,
        df: Any = None,
        *,
        future_df: Any = None,
        static_df: Any = None,
        horizon: int | None = None,
        levels: Sequence[float] | None = None,
        quantiles: Sequence[float] | None = None,
    ) -> Any:
        """Forecast the steps after the last row of each series, in a long frame.

        Args:
            df: history to forecast from, of any series; None goes on from the frame of ``fit``.
            future_df: known-future covariates of the horizon; see ``make_future_dataframe``.
            static_df: static covariates of the series in ``df``; None takes them from there.
            horizon: steps to forecast; more than were fitted are forecast from forecasts.
            levels: coverage in percent of the intervals; None: those of the Forecaster.
            quantiles: levels between 0 and 1, a column ``<Model>_q<level>`` each.

        Raises:
            NotFittedError: if nothing was fitted.
            DataError: if a frame does not fit.
        """
        fitted = self._fitted()
        horizon = fitted.plan.horizon if horizon is None else options.whole("horizon", horizon, 1, False)
        levels = fitted.plan.levels if levels is None else options.levels(levels)
        long, quantiles = None if df is None else read_long(df, fitted.reading), options.quantiles(quantiles)
        found = fitted.forecast(long, _frame(static_df), _frame(future_df), horizon, levels, quantiles)
        return (fitted.kind if long is None else long.kind).give(found)

    def cross_validation(
        self,
        df: Any,
        *,
        n_windows: int = 1,
        step_size: int | None = None,
        test_size: int | None = None,
        refit: bool | int = False,
        static_df: Any = None,
        val_size: int | Literal["auto"] = "auto",
        levels: Sequence[float] | None = None,
        quantiles: Sequence[float] | None = None,
        id_col: str = "unique_id",
        time_col: str = "ds",
        target_col: str = "y",
        weight_col: str | None = None,
    ) -> Any:
        """Forecast the end of each series as if it were not known yet: the forecasts with ``cutoff`` and truth.

        Everything is learned from the rows up to the first cutoff, scaling included; with ``refit`` again at every one.
        The fitted models are not changed. Series that are too short for the test are left out, with a warning.

        Args:
            df: long frame.
            n_windows: forecasts of each series.
            step_size: steps between two cutoffs; None: the horizon.
            test_size: last steps that are forecast; replaces ``n_windows``.
            refit: fit at each cutoff, or at every so many, not at the first alone.
            static_df: static covariates.
            val_size: last rows before the cutoff that are for validation.
            levels: coverage of the intervals in percent; None: those of the Forecaster.
            quantiles: levels between 0 and 1.
            id_col: column that names the series.
            time_col: column of dates or integers.
            target_col: column of the values.
            weight_col: column of sample weights.
        """
        from seqmix.forecasting.backtesting import cross_validate, test_windows

        how = self._reading(id_col, time_col, target_col, weight_col)
        long, static = read_long(df, how), _frame(static_df)
        levels = options.levels(self.levels if levels is None else levels)
        quantiles = options.quantiles(quantiles)
        long, step, n_windows = test_windows(long, self.horizon, n_windows, step_size, test_size)

        def learn(rows: Long) -> "Fitted":
            return self._learn(rows, static, how, val_size, "cross-validation")

        sizes = (self.horizon, step, n_windows, int(refit))
        found, self.tested_ = cross_validate(learn, long, static, levels, quantiles, *sizes)
        return long.kind.give(found)

    def evaluate(
        self,
        df: Any,
        metrics: Sequence[str] = ("mse", "mae", "mase"),
        *,
        by: str | None = None,
        standardized: bool = False,
        static_df: Any = None,
        train_df: Any = None,
    ) -> Any:
        """Errors of forecasts: a frame with columns ``metric``, ``model``, ``value``.

        MASE, RMSSE and MSIS are in units of the seasonal naive forecast on the rows before the first cutoff.

        Args:
            df: result of ``cross_validation``, or a long frame whose last horizon the fitted models then forecast.
            metrics: ``mse``, ``mae``, ``rmse``, ``mape``, ``smape``, ``wape``, ``bias``, ``mase``, ``rmsse``; of
                intervals ``coverage`` and ``msis``, of quantiles ``pinball`` and ``crps``; or functions of the truth
                and the forecast of a series.
            by: column to have errors apart by, ``cutoff`` for example; None: the mean over the series.
            standardized: divide by the deviation of the training rows, as in the tables of the benchmarks.
            static_df: static covariates, for a long frame.
            train_df: rows before the first cutoff, for forecasts that this Forecaster did not make.

        Raises:
            NotFittedError: for a long frame, if nothing was fitted.
            DataError: if columns or the rows before a cutoff are not there.
        """
        from seqmix.forecasting.scoring import check_metrics, errors, scales_for

        wanted = check_metrics(metrics)
        frame = None if isinstance(df, str | Path) else to_pandas(df)
        if frame is None or "cutoff" not in frame:
            fitted = self._fitted()
            long, how, scales = read_long(df, fitted.reading), fitted.reading, fitted.scales
            frame = fitted.backtest(long, _frame(static_df), np.array([fitted.plan.horizon]), fitted.plan.levels, [])
        else:
            known: Any = [getattr(self, name) for name in ("tested_", "fitted_") if hasattr(self, name)]
            how = known[0].reading if known else self._reading("unique_id", "ds", "y", None)
            train = None if train_df is None else read_long(train_df, how)
            scales = scales_for(frame, how, known, train, self.season, wanted, standardized=standardized)
        found = errors(frame, how, scales, wanted, by=by, standardized=standardized)
        return kind_of(df, how.id_col, how.time_col).give(found)

    def make_future_dataframe(self, df: Any = None, *, horizon: int | None = None) -> Any:
        """Ids and times of the horizon, to be joined with covariates; after the frame of ``fit``, or after ``df``."""
        kind, frame = self._horizon_of(df, horizon)
        return kind.give(frame)

    def get_missing_future(self, future_df: Any, df: Any = None, *, horizon: int | None = None) -> Any:
        """Ids and times of the horizon that ``future_df`` has no row for."""
        from seqmix.forecasting.covariates import missing_rows

        how = self._fitted().reading
        missing = missing_rows(self._horizon_of(df, horizon)[1], to_pandas(future_df), how)
        return kind_of(future_df, how.id_col, how.time_col).give(missing)

    def save(self, path: str | Path) -> None:
        """Write options and weights to a folder: ``forecaster.json`` and ``weights.safetensors``."""
        from seqmix.forecasting.saving import save_forecaster

        save_forecaster(self.get_params(), self._fitted(), Path(path))

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", trusted: Sequence[str] = ()) -> "Forecaster":
        """A fitted Forecaster from a folder that ``save`` wrote, or a repository of the Hugging Face Hub.

        Args:
            path: the folder, or ``owner/name`` of the repository.
            device: where it is trained further.
            trusted: modules of your own models, which may be imported; those of seqmix, of torch, and what the program
                has imported already always may.

        Raises:
            DataError: if there is none, it is damaged, of another version, or of a module that is not trusted, or the
                hub cannot be reached.
        """
        from seqmix.forecasting.saving import load_forecaster

        params, fitted = load_forecaster(path, options.names("trusted", trusted))
        return cls(**{**params, "device": device})._take(fitted)

    def export(self, path: str | Path, *, model: str | None = None) -> None:
        """Write a fitted model as one graph, normalization and scaling included, to ``.pt2`` or ``.onnx``.

        Args:
            path: the file; its ending says what it becomes.
            model: column name of the model; None: the first.
        """
        from seqmix.forecasting.exporting import export

        export(self._fitted(), model, Path(path))

    def plot(
        self,
        df: Any,
        forecast_df: Any = None,
        *,
        ids: Sequence[Any] | None = None,
        levels: Sequence[float] | None = None,
    ) -> "Figure":
        """History and forecasts in one picture.

        Args:
            df: long frame of the history.
            forecast_df: result of ``predict`` or ``cross_validation``; None forecasts ``df``.
            ids: series to draw; None: the first few.
            levels: coverage of the intervals in percent, those of the Forecaster if not given.
        """
        from seqmix.forecasting.plot import plot_cross_validation, plot_forecast

        how = self._fitted().reading
        found = self.predict(df, levels=levels) if forecast_df is None else forecast_df
        draw = plot_cross_validation if "cutoff" in found else plot_forecast
        names: Any = {"id_col": how.id_col, "time_col": how.time_col, "target_col": how.target_col}
        return draw(with_ids(to_pandas(df), how), to_pandas(found), ids=ids, **names)

    def _learn(self, long: Long, static: pd.DataFrame | None, how: Reading, val_size: Any, stage: str) -> "Fitted":
        from seqmix.forecasting.fitting import fit

        return fit(long, static, how, options.resolved(self.get_params()), val_size, stage)

    def _take(self, fitted: "Fitted") -> "Forecaster":
        self.fitted_, self.plan_ = fitted, fitted.plan
        self.freq_, self.season_, self.context_ = fitted.clock.freq, fitted.plan.season, fitted.plan.context
        self.mode_ = "multivariate" if fitted.plan.joint else "global"
        self.tasks_ = {member.name: member.task for member in fitted.members}
        self.history_, self.report_, self.notes_ = fitted.history, fitted.report, fitted.notes
        if self.verbose:
            facts = ", ".join(f"{name} {value}" for name, value in self.report_.items())
            print("\n".join([facts, *self.notes_]))
        return self

    def _fitted(self) -> "Fitted":
        if not hasattr(self, "fitted_"):
            raise NotFittedError("this Forecaster is not fitted; call fit() or load()")
        return self.fitted_

    def _horizon_of(self, df: Any, horizon: int | None) -> tuple[Kind, pd.DataFrame]:
        fitted = self._fitted()
        rows: Any = fitted if df is None else read_long(df, fitted.reading)
        return rows.kind, stamped(fitted.reading, fitted.clock, rows.ids, rows.last, horizon or fitted.plan.horizon)

    def _reading(self, id_col: str, time_col: str, target_col: str, weight_col: str | None) -> Reading:
        return Reading(
            id_col,
            time_col,
            target_col,
            weight_col,
            past=options.names("past_covariates", self.past_covariates),
            future=options.names("future_covariates", self.future_covariates),
            static=options.names("static_covariates", self.static_covariates),
            freq=self.freq,
            fill_gaps=self.fill_gaps,
            fill_value=self.fill_value,
            aggregate=self.aggregate,
            missing=self.missing,
        )


def _frame(df: Any) -> pd.DataFrame | None:
    return None if df is None else to_pandas(df)
