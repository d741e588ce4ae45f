"""The Forecaster: DataFrames in, forecasts in DataFrames out, with the tasks of the command line."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from seqmix.estimator import Estimator
from seqmix.forecasting import options
from seqmix.forecasting.distributed import over_datasets
from seqmix.forecasting.folder import read_long
from seqmix.forecasting.frame import Reading, followed, with_ids
from seqmix.forecasting.horizon import horizon_rows
from seqmix.forecasting.kind import kind_of, maybe_pandas, to_pandas
from seqmix.forecasting.long import Long

# torch, lightning and matplotlib load with the first call that needs them, not with the name
if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from seqmix.forecasting.learning import AnyFitted
    from seqmix.tasks import Forecasting


class Forecaster(Estimator):
    """Forecasts of many series from a long DataFrame, by any model of seqmix or any mixer.

    ``Forecaster("TSM2", horizon=24).fit(df).predict()``. In *global* mode one model is trained on all series, one
    window of one series at a time. In *multivariate* mode the series are channels of one; models that mix channels
    (TSM2) use it for series with the same time stamps. Several models are fitted to the same frame, each as it is
    alone. After ``fit``, ``mode_`` is the mode and ``plan_`` the resolved options of the first model, and ``notes_``
    messages about the data. Results have the columns ``<Model>``, ``<Model>-lo-90`` and ``<Model>-hi-90``.

    Args:
        model: name of a model, encoder or mixer (``TSM2``, ``PatchTST``, ``Hydra``), a class, a ``functools.partial``,
            or a list of them; each has a column in the results. ``auto`` compares several models on the last rows of
            the series and forecasts with a weighted ensemble of the best; ``leaderboard_`` lists them.
        horizon: number of steps to forecast.
        context_length: lookback of the models in steps. Default: the longest of three horizons, one season and the
            usual lookback of the frequency (two weeks for hourly data); less if the series are shorter than twice
            lookback and horizon.
        freq: step between rows, an alias of pandas or an integer. Default: inferred.
        season: length of the season in steps, for the seasonal naive forecast and MASE. Default: that of the frequency,
            or 1 if the context is shorter.
        loss: training loss: ``mse``, ``mae``, ``huber``, ``quantile``, ``normal``, ``student_t``,
            ``negative_binomial``, or a factory of a module.
        levels: coverage of the intervals in percent, ``[80, 95]``. Default: no intervals.
        conformal: calibrate quantile and distribution forecasts, as point forecasts always are, on the validation rows.
        normalize: how windows are normalized: ``window``, ``last``, ``season`` or ``none``, as in the Forecasting task.
            ``auto`` is ``season``, or ``window`` with known-future inputs or without a season.
        scaler: divisor of each series, from its training rows: ``season`` is the error of the seasonal naive forecast,
            as in MASE, ``standard`` the standard deviation, ``none`` is 1. ``auto`` is ``season`` for linear
            models, ``standard`` for others; counts are never scaled.
        mode: ``global``, ``multivariate``, or ``auto``.
        past_covariates: columns known up to the last row.
        future_covariates: columns known for the horizon as well.
        static_covariates: columns that do not change within a series.
        calendar: add hour, weekday and so on to the known-future inputs.
        missing: handling of missing values: ``mask`` ignores them in input and loss, ``error`` raises, ``ffill``
            repeats the last value.
        fill_gaps: insert missing time steps as missing values.
        fill_value: value of the time steps that ``fill_gaps`` inserts, for example 0. Default: missing.
        aggregate: aggregation of rows that are finer than ``freq``: ``sum``, ``mean``, ``last`` and so on, see
            ``seqmix.resample``. Default: such rows are refused.
        short: handling of series shorter than a window: ``pad`` adds missing rows before them, ``drop`` drops them,
            ``error`` raises.
        nonnegative: clip forecasts at zero. ``auto`` clips if no value is negative.
        max_steps: maximum number of optimizer steps; 0 uses pretrained models as they are. Default: 1000, or 200 for
            pretrained models.
        batch_size: windows per step. Default: 256, or 64 for pretrained models, or 32 in multivariate mode.
        learning_rate: peak learning rate of AdamW. Default: 5e-3, or 2e-4 for pretrained models.
        early_stopping: number of validations without improvement after which training stops. None: train to
            ``max_steps``.
        seed: seed of weights, order and dropout; global random generators keep their state.
        device: device for training and forecasts: ``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``.
        verbose: print a report of the data, and progress: a bar on a terminal, a line per validation elsewhere.
        model_kwargs: options of the model, if there is only one. Of ``auto``: ``members``, a list of models.
        trainer_kwargs: options of the Lightning Trainer, which override ours. ``{"devices": 2}`` trains in one process
            for each device with ``batch_size`` windows on each.
        budget: time limit for the fit of ``auto``: seconds, or text such as ``1min``. Default: one minute.
    """

    fitted_: "AnyFitted"

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
        max_steps: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        early_stopping: int | None = 5,
        seed: int = 0,
        device: str = "auto",
        verbose: bool = False,
        model_kwargs: dict[str, Any] | None = None,
        trainer_kwargs: dict[str, Any] | None = None,
        budget: str | float | pd.Timedelta | None = None,
    ):
        self.model, self.horizon, self.context_length = model, horizon, context_length
        self.freq, self.season, self.loss, self.levels, self.conformal = freq, season, loss, levels, conformal
        self.normalize, self.scaler, self.mode, self.aggregate = normalize, scaler, mode, aggregate
        self.past_covariates, self.future_covariates = past_covariates, future_covariates
        self.static_covariates, self.calendar, self.missing = static_covariates, calendar, missing
        self.fill_gaps, self.short, self.max_steps, self.batch_size = fill_gaps, short, max_steps, batch_size
        self.learning_rate, self.early_stopping, self.seed = learning_rate, early_stopping, seed
        self.device, self.verbose, self.model_kwargs, self.fill_value = device, verbose, model_kwargs, fill_value
        self.nonnegative, self.trainer_kwargs, self.budget = nonnegative, trainer_kwargs, budget
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
        """Fit the models and return the Forecaster. An earlier fit is discarded.

        Args:
            df: long frame, one row per series and time: pandas, polars or Arrow; or a folder of parquet files with
                whole series, whose values are not kept in memory.
            static_df: static covariates, one row per series. Default: columns of ``df``.
            val_size: number of last rows of each series for validation. ``auto`` is a tenth or ten forecast origins,
                and 0 for models in closed form.
            val_df: validation rows that follow those of ``df``; replaces ``val_size``.
            id_col: column that names the series; a frame without it is one series.
            time_col: column of dates or integers.
            target_col: column of the values.
            weight_col: column of sample weights.
        """
        from seqmix.forecasting.learning import fit

        how = options.reading(given := self._ready(), id_col, time_col, target_col, weight_col)
        long, rows = read_long(df, how), val_size
        if val_df is not None:
            long, rows = followed(df, long, to_pandas(val_df), how)
        return self._take(fit(long, maybe_pandas(static_df), how, given, rows, "fit"))

    def fit_more(
        self, df: Any, *, static_df: Any = None, max_steps: int = 200, learning_rate: float | None = None
    ) -> "Forecaster":
        """Train the fitted models further, on the same or other series; covariates keep their meaning.

        Args:
            df: long frame with the same columns.
            static_df: static covariates of its series.
            max_steps: maximum number of further steps.
            learning_rate: peak learning rate. Default: that of the fit.
        """
        from seqmix.forecasting.learning import fit_more

        before, given = self._fitted(), self._ready()
        long = read_long(df, before.reading)
        return self._take(fit_more(before, long, maybe_pandas(static_df), given, max_steps, learning_rate))

    @over_datasets
    def predict(
        self,
        df: Any = None,
        *,
        future_df: Any = None,
        static_df: Any = None,
        horizon: int | None = None,
        levels: Sequence[float] | None = None,
        quantiles: Sequence[float] | None = None,
        id_col: str | None = None,
        time_col: str | None = None,
        target_col: str | None = None,
    ) -> Any:
        """Forecast the steps after the last row of each series; returns a long frame.

        Args:
            df: history of any series. Default: the frame of ``fit``. Pretrained models need no fit: they forecast
                after this frame, with column names as in ``fit``, and the Forecaster stays unfitted. A Ray Dataset
                is forecast lazily by workers, each with whole series.
            future_df: known-future covariates of the horizon; see ``make_future_dataframe``.
            static_df: static covariates of its series. Default: columns of ``df``.
            horizon: steps to forecast. Beyond the fitted horizon, forecasts are inputs of later ones (recursive).
            levels: coverage of the intervals in percent. Default: those of the fit.
            quantiles: levels between 0 and 1; each adds a column ``<Model>_q<level>``.
        """
        fitted = self._fitted(df, how := self._how(id_col, time_col, target_col))
        steps = options.whole("horizon", horizon, 1, True) or fitted.plan.horizon
        asked = fitted.plan.levels if levels is None else options.levels(levels), options.quantiles(quantiles)
        long = read_long(df, how) if df is not None and hasattr(self, "fitted_") else None
        found = fitted.forecast(long, maybe_pandas(static_df), maybe_pandas(future_df), steps, *asked)
        return (long or fitted).kind.give(found)

    @over_datasets
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
        """Backtest: forecast the last rows of each series from the rows before; adds columns ``cutoff`` and truth.

        Everything, scaling included, is learned from the rows up to the first cutoff, and with ``refit`` again at later
        ones. The models of ``fit`` are kept. Series that are too short are left out with a warning. Arguments
        that are not listed are those of ``fit``. A Ray Dataset is for pretrained models, with ``max_steps=0``.

        Args:
            n_windows: forecasts per series.
            step_size: steps between two cutoffs. Default: the horizon.
            test_size: last steps that are forecast; replaces ``n_windows``.
            refit: fit again at every cutoff (True) or at every ``refit``-th one. Default: only at the first.
            levels: coverage of the intervals in percent. Default: those of the Forecaster.
            quantiles: levels between 0 and 1.
        """
        from seqmix.forecasting.backtesting import cross_validate, test_windows
        from seqmix.forecasting.learning import fit, least_rows

        how = options.reading(given := self._ready(), id_col, time_col, target_col, weight_col)
        long, static, quantiles = read_long(df, how), maybe_pandas(static_df), options.quantiles(quantiles)
        given |= {} if levels is None else {"levels": options.levels(levels)}
        long, step, n_windows = test_windows(long, least_rows(given), self.horizon, n_windows, step_size, test_size)

        def learn(rows: Long) -> "AnyFitted":
            return fit(rows, static, how, given, val_size, "cross-validation")

        sizes = (self.horizon, step, n_windows, options.whole("refit", 1 if refit is True else refit or 0, 0, False))
        found, self.tested_ = cross_validate(learn, long, static, given["levels"], quantiles, *sizes)
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
                intervals ``coverage`` and ``msis``, of quantiles ``pinball``, ``crps`` and ``wql`` (weighted quantile
                loss); or functions: those of utilsforecast, or of the truth and the forecast of a series.
            by: column to group errors by, for example ``cutoff``. Default: the mean over all series.
            standardized: errors in standard deviations of the training rows, as in the tables of the benchmarks.
            static_df: static covariates, for a long frame.
            train_df: rows before the first cutoff, for forecasts that were not made by this Forecaster.
        """
        from seqmix.forecasting.scoring import check_metrics, evaluate, is_test

        wanted, ours = check_metrics(metrics), [name for name in ("tested_", "fitted_") if hasattr(self, name)]
        known = [getattr(self, name) for name in ours] if is_test(df) else [self._fitted()]
        how = known[0].reading if known else self._how()
        return evaluate(df, how, known, wanted, maybe_pandas(static_df), train_df, by, standardized, self.season)

    @property
    def leaderboard_(self) -> pd.DataFrame:
        """Models that ``auto`` tried: MASE and WQL on the held-out rows, weight, seconds and notes."""
        return self._fitted().leaderboard

    @property
    def tasks_(self) -> dict[str, "Forecasting"]:
        """The fitted models by name, as tasks that a Lightning Trainer takes; they share their weights."""
        from seqmix.tasks import Forecasting

        return {m.name: Forecasting.of(m.predictor).to(m.predictor.device).eval() for m in self.fitted_.members}

    def make_future_dataframe(self, df: Any = None, *, horizon: int | None = None) -> Any:
        """Ids and times of the horizon after ``df``, or after the frame of ``fit``, to be joined with covariates."""
        kind, rows = horizon_rows(self._fitted(), df, horizon)
        return kind.give(rows)

    def get_missing_future(self, future_df: Any, df: Any = None, *, horizon: int | None = None) -> Any:
        """Ids and times of the horizon that ``future_df`` has no row for."""
        from seqmix.forecasting.given_rows import missing_rows

        how, (_, expected) = (fitted := self._fitted()).reading, horizon_rows(fitted, df, horizon)
        return kind_of(future_df, how.id_col, how.time_col).give(missing_rows(expected, to_pandas(future_df), how))

    def save(self, path: str | Path) -> None:
        """Write options and weights to a folder: ``forecaster.json`` and ``weights.safetensors``."""
        from seqmix.forecasting.saving import save_forecaster

        save_forecaster(self.get_params(), self._fitted(), Path(path))

    @classmethod
    def load(cls, path: str | Path, *, device: str = "auto", trusted: Sequence[str] = ()) -> "Forecaster":
        """Load a fitted Forecaster from a folder that ``save`` wrote, or a repository of the Hugging Face Hub.

        Args:
            path: the folder, or ``owner/name`` of the repository.
            device: device for forecasts and further training.
            trusted: modules of your own models, to be imported; modules of seqmix and torch, and those that are already
                imported, need not be named.
        """
        from seqmix.forecasting.saving import load_forecaster

        params, fitted = load_forecaster(path, device, options.names("trusted", trusted), cls._names())
        return cls(**params)._take(fitted)

    def export(self, path: str | Path, *, model: str | None = None) -> None:
        """Export a fitted model as one graph that includes normalization and scaling.

        Args:
            path: file that ends in ``.pt2`` or ``.onnx``.
            model: column name of the model. Default: the first.
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
        unit: str | None = None,
    ) -> "Figure":
        """Plot history and forecasts.

        Args:
            df: long frame of the history.
            forecast_df: result of ``predict`` or ``cross_validation``. Default: forecasts after ``df``.
            ids: series to draw. Default: the first few.
            levels: coverage of the intervals in percent. Default: those of the fit.
            unit: unit of the values, for the axis. Default: the name of the target column.
        """
        from seqmix.forecasting.plot import plot_forecast

        how, found = self._how(), to_pandas(self.predict(df, levels=levels) if forecast_df is None else forecast_df)
        return plot_forecast(with_ids(to_pandas(df), how), found, ids=ids, levels=levels, unit=unit, **how.names)

    def _take(self, fitted: "AnyFitted") -> "Forecaster":
        self.fitted_, self.plan_ = fitted, fitted.first_plan
        self.freq_, self.season_, self.context_ = fitted.clock.freq, fitted.plan.season, self.plan_.context
        self.mode_ = "multivariate" if fitted.plan.joint else "global"
        self.history_, self.report_, self.notes_ = fitted.history, fitted.report, fitted.notes
        if self.verbose:
            print("\n".join([", ".join(f"{name} {value}" for name, value in self.report_.items()), *self.notes_]))
        return self

    def _fitted(self, df: Any = None, how: Reading | None = None) -> "AnyFitted":
        """The fitted state, or that of pretrained models for ``df``."""
        if hasattr(self, "fitted_"):
            return self.fitted_
        from seqmix.forecasting.learning import as_they_are

        return as_they_are(df, how or self._how(), self._ready())

    def _ready(self) -> dict[str, Any]:
        """The options, on a machine that can train by them."""
        from seqmix.forecasting.machine import trainer_options

        return (given := options.resolved(self.get_params())) | {"trainer_kwargs": trainer_options(given)}

    def _how(self, *names: str | None) -> Reading:
        """Reading options: those of the fit, or, before a fit, given and default names."""
        if hasattr(self, "fitted_"):
            return self.fitted_.reading.checked(*names)
        return options.reading(options.resolved(self.get_params()), *names)
