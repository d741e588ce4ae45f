"""``seqmix forecast``: forecast every series of a table in a file."""

import inspect
import sys
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from seqmix.commands._channels import whole_or_text
from seqmix.commands._function import call, in_words_of_the_shell
from seqmix.commands._long_table import Roles, check_columns, find_roles, long_frame, split, with_id_columns
from seqmix.commands.outputs import save_picture
from seqmix.commands.tables import print_table
from seqmix.errors import ConfigError
from seqmix.forecasting import Forecaster
from seqmix.forecasting.cells import Cells
from seqmix.forecasting.covariates import future_rows
from seqmix.forecasting.frame import Reading, read_frame
from seqmix.forecasting.options import AUTO
from seqmix.forecasting.plot import PICTURES
from seqmix.forecasting.tables import (
    OUTPUTS,
    TableFile,
    check_apart,
    check_folder,
    check_output,
    read_table,
    write_table,
)

# endings of exported graphs
EXPORTS = (".pt2", ".onnx")
# options that a fitted Forecaster takes as well
_FITTED = ("horizon", "levels", "device", "verbose")
# phrases of messages, and their form on the command line
_SHELL = {
    "the freq of the data, or None": "the freq of the data, or leave --freq out",
    "one row for each row of make_future_dataframe()": "one row for each id and step",
    "get_missing_future(future_df) lists them": "add them to the file",
    "future_df=...": "--future FILE",
    "future_df": "--future",
}


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    with in_words_of_the_shell(forecast, _SHELL, "no forecasts were written"):
        call(forecast, command, argv)


def forecast(
    *,
    data: str,
    horizon: int | None = None,
    model: str = AUTO,
    budget: str | None = None,
    out: str = "forecast.csv",
    plot: str | None = None,
    cv: int = 0,
    levels: str = "",
    conformal: bool = False,
    loss: Literal["mse", "mae", "huber", "quantile", "normal", "student_t", "negative_binomial"] = "mae",
    mode: Literal["auto", "global", "multivariate"] = "auto",
    normalize: Literal["auto", "season", "window", "last", "none"] = "auto",
    nonnegative: bool | Literal["auto"] = "auto",
    scaler: Literal["auto", "season", "standard", "none"] = "auto",
    freq: str | None = None,
    id_col: str | None = None,
    time_col: str | None = None,
    target_col: str | None = None,
    sep: str | None = None,
    decimal: str | None = None,
    thousands: str | None = None,
    date_format: str | None = None,
    encoding: str | None = None,
    na: str = "",
    future: str | None = None,
    future_covariates: str = "",
    past_covariates: str = "",
    static_covariates: str = "",
    calendar: bool = False,
    context: int | None = None,
    season: int | None = None,
    fill_gaps: bool = False,
    fill_value: float | None = None,
    aggregate: Literal["sum", "mean", "median", "min", "max", "first", "last"] | None = None,
    max_steps: int | None = None,
    lr: float | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    device: str = "auto",
    save: str | None = None,
    load: str | None = None,
    export: str | None = None,
    verbose: bool = False,
) -> None:
    """Forecast every series of a table in a file.

    Args:
        data: CSV, Excel or parquet file: a long table of ids, times and values, or a wide one with a column for each
            series. The format of a CSV file is inferred, or set by ``sep`` and the options after it.
        horizon: steps to forecast. Default with ``load``: the fitted horizon.
        model: model, encoder or mixer by name, or several separated by commas. ``auto`` compares several models on the
            last rows of the series, prints their errors, and forecasts with a weighted ensemble of the best.
        budget: time limit for the fit of ``auto``, for example ``30s`` or ``5min``. Default: one minute.
        out: output file: ``.csv``, ``.tsv``, ``.parquet`` or ``.xlsx``.
        plot: file for a plot of the forecasts, for example ``forecast.png``. Default: none.
        cv: number of backtest windows at the end of each series, on which the models are compared with the seasonal
            naive forecast. This trains the models once more. Default: no backtest.
        levels: coverage of intervals in percent, separated by commas, for example ``80,95``.
        conformal: calibrate quantile and distribution forecasts on the validation rows (conformal prediction); the
            intervals of point forecasts always are.
        loss: training loss.
        mode: ``global`` trains one model on windows of one series at a time, ``multivariate`` on all series at once.
        normalize: how windows are normalized: ``window`` to zero mean and unit variance, ``last`` by subtracting the
            last value, ``season`` by subtracting the seasonal naive forecast.
        nonnegative: clip forecasts at zero; ``auto`` clips if no value is negative.
        scaler: divisor of each series: ``season`` is its seasonal naive error, ``standard`` its standard
            deviation.
        freq: step between rows, for example ``h``, ``D``, ``MS``. Default: inferred.
        id_col: column that names the series, or several separated by commas. Default: found by name or content.
        time_col: column of times, or several (``year,month``, ``date,time``). Default: found by name or content.
        target_col: column of values. Default: found by name or content.
        sep: field separator of a CSV file, for example ``;`` or ``tab``. Default: inferred.
        decimal: decimal separator, ``.`` or ``,``. Default: inferred.
        thousands: thousands separator. Default: inferred.
        date_format: format of dates, for example ``%d.%m.%Y``. Default: inferred.
        encoding: character encoding, for example ``cp1252`` or ``utf-16``. Default: inferred.
        na: further words for missing values, separated by commas.
        future: file of the known-future covariates of the horizon.
        future_covariates: columns known for the horizon, separated by commas.
        past_covariates: columns known up to the last row.
        static_covariates: columns that do not change within a series.
        calendar: use hour, weekday and so on as inputs.
        context: lookback in steps. Default: from the horizon and the frequency.
        season: length of the season in steps. Default: that of the frequency.
        fill_gaps: insert missing time steps as missing values.
        fill_value: value of inserted time steps, for example 0 for days without sales. Default: missing.
        aggregate: aggregation of rows finer than ``freq``, for example ``sum``. Default: such rows are refused.
        max_steps: maximum number of optimizer steps of each fit. Default: 1000, or 0 if every model is pretrained, or
            needs no steps, as ``Ridge``.
        lr: peak learning rate. Default: 5e-3, or 2e-4 for fine-tuning pretrained models.
        batch_size: windows per optimizer step. Default: 256, or 32 for ``multivariate``, or 64 for fine-tuning.
        seed: seed of weights and order.
        device: ``auto``, ``cpu`` or ``cuda``.
        save: folder for the fitted models, to be used with ``load``. Default: they are not saved.
        load: folder of saved models to use instead of training.
        export: file for the first model as one graph: ``.pt2`` or ``.onnx``. Default: no export.
        verbose: print a report of each fit, and show progress also where the output is not a terminal.
    """
    if load:
        _check_fitted(locals())
    elif horizon is None:
        raise ConfigError("--horizon is needed; give the number of steps to forecast")
    if future and not (future_covariates or load):
        raise ConfigError("--future is a file of --future_covariates; name its columns there, separated by commas")
    names, percent = split(model), [_level(part) for part in split(levels)]
    if not names:
        raise ConfigError("--model is empty; give a name, for example --model TSM2")
    for option, path, endings in (("out", out, OUTPUTS), ("plot", plot, PICTURES), ("export", export, EXPORTS)):
        if path is not None:
            check_output(option, path, endings)
    check_apart(out, {"data": data, "future": future})
    if save is not None:
        check_folder("save", save)
    cells = Cells(decimal=decimal, thousands=thousands, date_format=date_format, missing=split(na))
    table = read_table(data, sep=sep, encoding=encoding)
    known = None if future is None else read_table(future, sep=sep, encoding=encoding)
    forecaster = (
        Forecaster.load(load, device=device)
        if load
        else Forecaster(
            names if len(names) > 1 else names[0],
            1 if horizon is None else horizon,
            loss=loss,
            levels=percent or None,
            conformal=conformal,
            mode=mode,
            normalize=normalize,
            nonnegative=nonnegative,
            scaler=scaler,
            freq=whole_or_text(freq),
            past_covariates=split(past_covariates),
            future_covariates=split(future_covariates),
            static_covariates=split(static_covariates),
            calendar=calendar,
            context=context,
            season=season,
            fill_gaps=fill_gaps,
            fill_value=fill_value,
            aggregate=aggregate,
            max_steps=_steps(names) if max_steps is None and lr is None else max_steps,
            lr=lr,
            batch_size=batch_size,
            seed=seed,
            device=device,
            verbose=verbose,
            trainer_kwargs={"enable_progress_bar": verbose or sys.stderr.isatty()},
            budget=budget,
        )
    )
    covariates = [*forecaster.future_covariates, *forecaster.past_covariates, *forecaster.static_covariates]
    cells.observe(table.frame, table.sep)
    roles = find_roles(
        table.frame, cells, id_col=id_col, time_col=time_col, target_col=target_col, covariates=covariates
    )
    frame, notes = long_frame(table.frame, cells, roles, covariates)
    columns: dict[str, Any] = {"id_col": roles.id_col, "time_col": roles.time_col, "target_col": roles.target_col}
    if load:
        # the names that the models were fitted with
        how = forecaster.fitted_.reading
        renamed = dict(zip(columns.values(), how.names.values(), strict=True))
        frame = frame.rename(columns=renamed)
    ahead = None if known is None else _ahead(known, cells, roles, forecaster, frame)
    if forecaster.future_covariates and not load:
        _check_ahead(forecaster, frame, ahead, columns)
    tested = _tested(forecaster, frame, columns, cv) if cv else None
    if not load:
        forecaster.fit(frame, **columns)
    _print_fit(data, forecaster, [*table.notes, *notes])
    if forecaster.model == AUTO:
        print_table(f"models on the last rows, and their weights in {AUTO}", forecaster.leaderboard_.to_dict("records"))
    if tested is not None:
        _print_errors(forecaster, tested, cv)
    found = forecaster.predict(frame if load else None, future_df=ahead, horizon=horizon, levels=percent or None)
    named = found.rename(columns={new: old for old, new in renamed.items()}) if load else found
    write_table(with_id_columns(named, table.frame, roles), Path(out))
    print(f"forecasts: {out}")
    if save is not None:
        forecaster.save(save)
        print(f"models: {save}")
    if export is not None:
        forecaster.export(export)
        print(f"graph: {export}")
    if plot is not None:
        save_picture(forecaster.plot(frame, found), Path(plot))
        print(f"picture: {plot}")


def _check_fitted(given: dict[str, Any]) -> None:
    """Refuse options of fitting beside fitted models."""
    parameters = inspect.signature(forecast).parameters
    fitting = [name for name in (*inspect.signature(Forecaster).parameters, "cv", "save") if name not in _FITTED]
    useless = [name for name in fitting if name in given and given[name] != parameters[name].default]
    if useless:
        raise ConfigError(f"--{useless[0]} is for fitting, and --load takes fitted models; leave one of the two out")


def _steps(models: list[str]) -> int | None:
    """Optimizer steps where none are asked for: none of pretrained models, else those of the Forecaster.

    A pretrained model beside one in closed form forecasts as it does alone.
    """
    from seqmix.forecasting.factory import choices

    given = [] if models == [AUTO] else [choice.cls for choice in choices(models, None)]
    as_it_is = any(cls.pretrained for cls in given) and all(cls.pretrained or not cls.by_steps for cls in given)
    return 0 if as_it_is else None


def _ahead(table: TableFile, cells: Cells, roles: Roles, forecaster: Forecaster, frame: pd.DataFrame) -> pd.DataFrame:
    """Known-future covariates of the horizon as a long frame; without ids they count for every series."""
    names = list(forecaster.future_covariates)
    check_columns(table.frame, names, "--future: ")
    if len(roles.times) == 1 and roles.times[0] not in table.frame:
        check_columns(table.frame, [roles.time_col], "--future: ")
    rows, _ = long_frame(table.frame, cells, roles, names, values=False)
    if roles.id_col in rows or roles.id_col not in frame:
        return rows
    return rows.merge(frame[[roles.id_col]].drop_duplicates(), how="cross")


def _check_ahead(
    forecaster: Forecaster, frame: pd.DataFrame, ahead: pd.DataFrame | None, columns: dict[str, Any]
) -> None:
    """Refuse known-future covariates that do not cover the horizon, before models are trained."""
    how = Reading(
        **columns,
        future=forecaster.future_covariates,
        freq=forecaster.freq,
        fill_gaps=forecaster.fill_gaps,
        fill_value=forecaster.fill_value,
        aggregate=forecaster.aggregate,
    )
    long, steps = read_frame(frame, how), forecaster.horizon
    future_rows(how, long.clock, long.ids, long.last, steps, steps, ahead)


def _tested(forecaster: Forecaster, frame: pd.DataFrame, columns: dict[str, Any], cv: int) -> pd.DataFrame:
    """Errors of forecasts of the end of each series by the models, and by the seasonal naive forecast."""
    models = forecaster.model if isinstance(forecaster.model, list) else [forecaster.model]
    naive = [] if "SeasonalNaive" in models else ["SeasonalNaive"]
    # the automatic choice is not a model in a list
    apart = [[AUTO], naive] if models == [AUTO] else [[*models, *naive]]
    parts = []
    for names in apart:
        budget = forecaster.budget if names == [AUTO] else None
        rival = forecaster.clone().set_params(model=names if len(names) > 1 else names[0], levels=None, budget=budget)
        parts.append(rival.cross_validation(frame, n_windows=cv, **columns))
        judge = rival
    found = pd.concat([parts[0], *(part[naive] for part in parts[1:])], axis=1)
    return judge.evaluate(found, ("mae", "mase", "smape"))


def _print_fit(data: str, forecaster: Forecaster, notes: list[str]) -> None:
    report = forecaster.report_
    windows = f"{report['windows']:,} windows" if report["windows"] else "no training"
    print(f"{data}: {report['series']:,} series, {windows}, {forecaster.mode_}, context {forecaster.context_}")
    for note in [*notes, *forecaster.notes_]:
        print(f"  {note}")


def _print_errors(forecaster: Forecaster, errors: pd.DataFrame, cv: int) -> None:
    table = errors.pivot(index="model", columns="metric", values="value").sort_values("mae")
    rows = [{"model": str(name), **{str(k): float(v) for k, v in row.items()}} for name, row in table.iterrows()]
    steps = forecaster.horizon
    print_table(f"errors of {cv} forecast{'s' * (cv > 1)} of {steps} steps at the end of each series", rows)


def _level(text: str) -> float:
    try:
        level = float(text)
    except ValueError as e:
        raise ConfigError(f"levels should be percentages separated by commas, got {text!r}; use 80,95") from e
    if not 0 < level < 100:
        raise ConfigError(f"levels should be between 0 and 100 percent, got {text}; use 80,95")
    return level
