"""``seqmix forecast``: forecast every series of a table in a file."""

import inspect
import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

from seqmix.commands._function import call, in_words_of_the_shell
from seqmix.commands._long_table import Roles, check_columns, find_roles, long_frame, split, with_id_columns
from seqmix.commands._options import TableReader, check_loaded, check_outputs, percentages, whole_or_text
from seqmix.commands.outputs import save_picture
from seqmix.commands.tables import print_table
from seqmix.errors import ConfigError
from seqmix.forecasting import Forecaster
from seqmix.forecasting.cells import Cells
from seqmix.forecasting.frame import Reading, read_frame
from seqmix.forecasting.given_rows import future_rows
from seqmix.forecasting.options import AUTO
from seqmix.forecasting.tables import TableFile, check_output, write_table

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
    target_col: str | None = None,
    reader: TableReader,
    future: str | None = None,
    future_covariates: str = "",
    past_covariates: str = "",
    static_covariates: str = "",
    calendar: bool = False,
    context_length: int | None = None,
    season: int | None = None,
    fill_gaps: bool = False,
    fill_value: float | None = None,
    aggregate: Literal["sum", "mean", "median", "min", "max", "first", "last"] | None = None,
    max_steps: int | None = None,
    learning_rate: float | None = None,
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
            series. How it is written is inferred, or set by ``id_col`` and the options after it.
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
        target_col: column of values. Default: found by name or content.
        reader: how tables are read.
        future: file of the known-future covariates of the horizon.
        future_covariates: columns known for the horizon, separated by commas.
        past_covariates: columns known up to the last row.
        static_covariates: columns that do not change within a series.
        calendar: use hour, weekday and so on as inputs.
        context_length: lookback in steps. Default: from the horizon and the frequency.
        season: length of the season in steps. Default: that of the frequency.
        fill_gaps: insert missing time steps as missing values.
        fill_value: value of inserted time steps, for example 0 for days without sales. Default: missing.
        aggregate: aggregation of rows finer than ``freq``, for example ``sum``. Default: such rows are refused.
        max_steps: maximum number of optimizer steps of each fit. Default: 1000, or 0 if every model is pretrained, or
            needs no steps, as ``Ridge``.
        learning_rate: peak learning rate. Default: 5e-3, or 2e-4 for fine-tuning pretrained models.
        batch_size: windows per optimizer step. Default: 256, or 32 for ``multivariate``, or 64 for fine-tuning.
        seed: seed of weights and order.
        device: ``auto``, ``cpu`` or ``cuda``.
        save: folder for the fitted models, to be used with ``load``. Default: they are not saved.
        load: folder of saved models to use instead of training.
        export: file for the first model as one graph: ``.pt2`` or ``.onnx``. Default: no export.
        verbose: print a report of each fit, and show progress also where the output is not a terminal.
    """
    if load:
        fitting = {*inspect.signature(Forecaster).parameters, "cv", "save"}
        check_loaded(forecast, locals(), fitting.difference(_FITTED))
    elif horizon is None:
        raise ConfigError("--horizon is needed; give the number of steps to forecast")
    if future and not (future_covariates or load):
        raise ConfigError("--future is a file of --future_covariates; name its columns there, separated by commas")
    names, percent = split(model), percentages(levels)
    if not names:
        raise ConfigError("--model is empty; give a name, for example --model TSM2")
    check_outputs(out, plot, save, {"data": data, "future": future})
    if export is not None:
        check_output("export", export, EXPORTS)
    file, cells = reader.read(data)
    known = None if future is None else reader.file(future)
    forecaster = (
        Forecaster.load(load, device=device)
        if load
        else Forecaster(
            names if len(names) > 1 else names[0],
            1 if horizon is None else horizon,
            loss=loss,
            levels=percent,
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
            context_length=context_length,
            season=season,
            fill_gaps=fill_gaps,
            fill_value=fill_value,
            aggregate=aggregate,
            max_steps=_steps(names) if max_steps is None and learning_rate is None else max_steps,
            learning_rate=learning_rate,
            batch_size=batch_size,
            seed=seed,
            device=device,
            verbose=verbose,
            trainer_kwargs={"enable_progress_bar": verbose or sys.stderr.isatty()},
            budget=budget,
        )
    )
    named = forecaster.fitted_.reading.names if load else None
    table = _read(forecaster, file, cells, reader, target_col, named)
    ahead = None if known is None else _ahead(known, cells, forecaster, table)
    tested = None
    if not load:
        if forecaster.future_covariates:
            _check_ahead(forecaster, table, ahead)
        tested = _tested(forecaster, table, cv) if cv else None
        forecaster.fit(table.long, **table.columns)
    _print_fit(data, forecaster, table.notes)
    if forecaster.model == AUTO:
        print_table(f"models on the last rows, and their weights in {AUTO}", forecaster.leaderboard_.to_dict("records"))
    if tested is not None:
        _print_errors(forecaster, tested, cv)
    found = forecaster.predict(table.long if load else None, future_df=ahead, horizon=horizon, levels=percent)
    own = found.rename(columns={new: old for old, new in table.renamed.items()})
    write_table(with_id_columns(own, file.frame, table.roles), Path(out))
    print(f"forecasts: {out}")
    if save is not None:
        forecaster.save(save)
        print(f"models: {save}")
    if export is not None:
        forecaster.export(export)
        print(f"graph: {export}")
    if plot is not None:
        save_picture(forecaster.plot(table.long, found), Path(plot))
        print(f"picture: {plot}")


class _Table(NamedTuple):
    """A table as a long frame."""

    long: pd.DataFrame
    roles: Roles  # of the columns of the file
    columns: dict[str, Any]  # of ids, times and values in the long frame, as arguments of ``fit``
    notes: list[str]

    @property
    def renamed(self) -> dict[str, str]:
        """Columns of ids, times and values in the long frame by their names in the file."""
        return dict(zip(self.roles.columns.values(), self.columns.values(), strict=True))


def _read(
    forecaster: Forecaster,
    file: TableFile,
    cells: Cells,
    reader: TableReader,
    target_col: str | None,
    columns: dict[str, Any] | None,
) -> _Table:
    """A table as a long frame. ``columns`` are the names that loaded models were fitted with. Default: its own."""
    covariates = [*forecaster.future_covariates, *forecaster.past_covariates, *forecaster.static_covariates]
    roles = find_roles(
        file.frame, cells, id_col=reader.id_col, time_col=reader.time_col, target_col=target_col, covariates=covariates
    )
    long, notes = long_frame(file.frame, cells, roles, covariates)
    table = _Table(long, roles, columns or roles.columns, [*file.notes, *notes])
    return table._replace(long=long.rename(columns=table.renamed))


def _steps(models: list[str]) -> int | None:
    """Optimizer steps where none are asked for: none of pretrained models, else those of the Forecaster.

    A pretrained model beside one in closed form forecasts as it does alone.
    """
    from seqmix.forecasting.factory import choices

    given = [] if models == [AUTO] else [choice.cls for choice in choices(models, None)]
    as_it_is = any(cls.pretrained for cls in given) and all(cls.pretrained or not cls.by_steps for cls in given)
    return 0 if as_it_is else None


def _ahead(file: TableFile, cells: Cells, forecaster: Forecaster, table: _Table) -> pd.DataFrame:
    """Known-future covariates of the horizon as a long frame; without ids they count for every series."""
    names, roles, id_col = list(forecaster.future_covariates), table.roles, table.columns["id_col"]
    check_columns(file.frame, names, "--future: ")
    if len(roles.times) == 1 and roles.times[0] not in file.frame:
        check_columns(file.frame, [roles.time_col], "--future: ")
    rows = long_frame(file.frame, cells, roles, names, values=False)[0].rename(columns=table.renamed)
    if id_col in rows or id_col not in table.long:
        return rows
    return rows.merge(table.long[[id_col]].drop_duplicates(), how="cross")


def _check_ahead(forecaster: Forecaster, table: _Table, ahead: pd.DataFrame | None) -> None:
    """Refuse known-future covariates that do not cover the horizon, before models are trained."""
    how = Reading(
        **table.columns,
        future=forecaster.future_covariates,
        freq=forecaster.freq,
        fill_gaps=forecaster.fill_gaps,
        fill_value=forecaster.fill_value,
        aggregate=forecaster.aggregate,
    )
    long, steps = read_frame(table.long, how), forecaster.horizon
    future_rows(how, long.clock, long.ids, long.last, steps, steps, ahead)


def _tested(forecaster: Forecaster, table: _Table, cv: int) -> pd.DataFrame:
    """Errors of forecasts of the end of each series by the models, and by the seasonal naive forecast."""
    models = forecaster.model if isinstance(forecaster.model, list) else [forecaster.model]
    naive = [] if "SeasonalNaive" in models else ["SeasonalNaive"]
    # the automatic choice is not a model in a list
    apart = [[AUTO], naive] if models == [AUTO] else [[*models, *naive]]
    parts = []
    for names in apart:
        budget = forecaster.budget if names == [AUTO] else None
        rival = forecaster.clone().set_params(model=names if len(names) > 1 else names[0], levels=None, budget=budget)
        parts.append(rival.cross_validation(table.long, n_windows=cv, **table.columns))
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
