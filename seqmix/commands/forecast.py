"""``seqmix forecast``: from a table in a file to forecasts in a file, beside the season before."""

import sys
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from seqmix.commands._function import call
from seqmix.commands._table import print_table
from seqmix.errors import ConfigError, DataError
from seqmix.forecasting import Forecaster, long_from_wide
from seqmix.forecasting.frame import is_dated

# names of columns in lower case that need no explanation
_IDS = ("unique_id", "id", "item_id", "series", "series_id")
_TIMES = ("ds", "date", "datetime", "time", "timestamp", "month")
_TARGETS = ("y", "target", "value", "sales")


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    call(forecast, command, argv)


def forecast(
    *,
    data: str,
    horizon: int,
    model: str = "TSM2",
    out: str = "forecast.csv",
    plot: str | None = None,
    cv: int = 1,
    levels: str = "",
    conformal: bool = False,
    loss: Literal["mse", "mae", "huber", "quantile", "normal", "student_t", "negative_binomial"] = "mae",
    freq: str | None = None,
    id_col: str | None = None,
    time_col: str | None = None,
    target_col: str | None = None,
    future: str | None = None,
    future_covariates: str = "",
    past_covariates: str = "",
    static_covariates: str = "",
    calendar: bool = False,
    context_length: int | None = None,
    season: int | None = None,
    fill_gaps: bool = False,
    max_steps: int = 1000,
    learning_rate: float = 5e-3,
    seed: int = 0,
    device: str = "auto",
    verbose: bool = False,
) -> None:
    """Forecast every series in a file, and measure the models on its last rows.

    Args:
        data: CSV or parquet file: a long table of ids, times and values, or a wide one with a column for each series.
        horizon: steps to forecast.
        model: model or mixer by name, or several with commas between them.
        out: CSV or parquet file of the forecasts.
        plot: picture of the forecasts, for example ``forecast.png``.
        cv: windows at the end of each series that the models are measured on; 0 for none.
        levels: coverage of intervals in percent, with commas between them, for example ``80,95``.
        conformal: move the intervals of quantiles and distributions until they hold the validation rows as often as
            they should; those of point forecasts always are made from them.
        loss: what training minimizes.
        freq: step between rows, for example ``h``, ``D``, ``MS``; inferred if not given.
        id_col: column that names the series; found by its name or content if not given.
        time_col: column of times; found by its name or content if not given.
        target_col: column of values; found by its name or content if not given.
        future: CSV or parquet file of the known-future covariates of the horizon.
        future_covariates: columns known for the horizon, with commas between them.
        past_covariates: columns known up to the last row.
        static_covariates: columns that do not change within a series.
        calendar: hour, weekday and so on as inputs.
        context_length: steps that a model sees; from the horizon and the frequency if not given.
        season: steps of the season; from the frequency if not given.
        fill_gaps: take steps that are left out for missing values.
        max_steps: most optimizer steps of each fit.
        learning_rate: peak learning rate.
        seed: of weights and order.
        device: ``auto``, ``cpu`` or ``cuda``.
        verbose: show what each fit found, and its progress, which a terminal always shows.
    """
    frame, columns = _long(_read(data), id_col, time_col, target_col)
    percent = [_number(part) for part in _parts(levels)]
    names = _parts(model)
    forecaster = Forecaster(
        names if len(names) > 1 else names[0],
        horizon,
        loss=loss,
        levels=percent or None,
        conformal=conformal,
        freq=int(freq) if freq and freq.isdigit() else freq,
        past_covariates=_parts(past_covariates),
        future_covariates=_parts(future_covariates),
        static_covariates=_parts(static_covariates),
        calendar=calendar,
        context_length=context_length,
        season=season,
        fill_gaps=fill_gaps,
        max_steps=max_steps,
        learning_rate=learning_rate,
        seed=seed,
        device=device,
        verbose=verbose,
        trainer_kwargs={"enable_progress_bar": verbose or sys.stderr.isatty()},
    )
    tested = _tested(forecaster, frame, columns, cv) if cv else None
    forecaster.fit(frame, **columns)
    report = forecaster.report_
    print(
        f"{data}: {report['series']:,} series, {report['windows']:,} windows, {forecaster.mode_}, "
        f"context {forecaster.context_}"
    )
    for note in forecaster.notes_:
        print(f"  {note}")
    if tested is not None:
        errors = forecaster.evaluate(tested, ("mae", "mase", "smape"))
        table = errors.pivot(index="model", columns="metric", values="value").sort_values("mae")
        rows = [{"model": str(name), **{str(k): float(v) for k, v in row.items()}} for name, row in table.iterrows()]
        print_table(f"errors of {cv} forecast{'s' * (cv > 1)} of {horizon} steps at the end of each series", rows)
    found = forecaster.predict(future_df=None if future is None else _read(future))
    _write(found, Path(out))
    print(f"forecasts: {out}")
    if plot:
        forecaster.plot(frame, found).savefig(plot, dpi=150)
        print(f"picture: {plot}")


def _tested(forecaster: Forecaster, frame: pd.DataFrame, columns: dict[str, Any], cv: int) -> pd.DataFrame:
    """Forecasts of the end of each series by the models, and by the season before."""
    models = forecaster.model if isinstance(forecaster.model, list) else [forecaster.model]
    rivals = [*models, *(["SeasonalNaive"] if "SeasonalNaive" not in models else [])]
    judge = forecaster.clone().set_params(model=rivals, levels=None)
    return judge.cross_validation(frame, n_windows=cv, **columns)


def _read(path: str) -> pd.DataFrame:
    file = Path(path)
    if not file.exists():
        raise DataError(f"file {path!r} not found; give a CSV or parquet file")
    if file.suffix == ".parquet":
        return pd.read_parquet(file)
    try:
        return pd.read_csv(file, skipinitialspace=True)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as e:
        raise DataError(f"file {path!r} is no CSV table ({e}); give a CSV or parquet file with a header") from e


def _write(frame: pd.DataFrame, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    if path.suffix == ".parquet":
        frame.to_parquet(part, index=False)
    else:
        frame.to_csv(part, index=False)
    part.replace(path)


def _long(
    frame: pd.DataFrame, id_col: str | None, time_col: str | None, target_col: str | None
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The table as a long frame, and the names of its columns: given, known by name, or seen from what they hold."""
    numeric = [str(c) for c in frame if pd.api.types.is_numeric_dtype(frame[c].dtype)]
    dated = [str(c) for c in frame if c not in numeric and is_dated(frame[c])]
    other = [str(c) for c in frame if c not in numeric and c not in dated]
    time_col = time_col or _pick(_TIMES, frame, dated)
    id_col = id_col or _pick(_IDS, frame, other)
    values = [c for c in numeric if c not in (time_col, id_col)]
    target_col = target_col or _pick(_TARGETS, frame, values if len(values) == 1 else [])
    if time_col and id_col is None and target_col is None and len(values) > 1:
        wide = frame[[time_col, *values]]
        return long_from_wide(wide, time_col), {"id_col": "unique_id", "time_col": "ds", "target_col": "y"}
    for option, found in (("time_col", time_col), ("target_col", target_col)):
        if found is None:
            raise DataError(f"no column to take for --{option} among {[str(c) for c in frame]}; name it")
    return frame, {"id_col": id_col or "unique_id", "time_col": str(time_col), "target_col": str(target_col)}


def _pick(names: tuple[str, ...], frame: pd.DataFrame, others: list[str]) -> str | None:
    return next((str(c) for c in frame if str(c).lower() in names), others[0] if others else None)


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError as e:
        raise ConfigError(f"levels should be percentages with commas between them, got {text!r}; use 80,95") from e
