"""``seqmix impute``: fill the missing values of a table in a file; observed cells stay as written."""

import sys
from pathlib import Path
from typing import Literal

from seqmix.analysis import Imputer
from seqmix.commands._channels import read_channels, renamed
from seqmix.commands._function import call, in_words_of_the_shell
from seqmix.commands._options import TableReader, check_loaded, check_outputs, percentages, whole_or_text
from seqmix.commands._written import as_written
from seqmix.commands.outputs import save_picture


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    with in_words_of_the_shell(impute, {"--target_col": "--channels"}, "nothing was written"):
        call(impute, command, argv, leading=("data",))


def impute(
    *,
    data: str,
    out: str = "filled.csv",
    plot: str | None = None,
    model: str | None = None,
    levels: str = "",
    context: int | None = None,
    pattern: Literal["point", "subsequence", "block", "mixed"] = "mixed",
    rate: float = 0.25,
    channels: str | None = None,
    reader: TableReader,
    freq: str | None = None,
    fill_gaps: bool = False,
    max_steps: int = 300,
    lr: float = 2e-3,
    seed: int = 0,
    device: str = "auto",
    save: str | None = None,
    load: str | None = None,
    verbose: bool = False,
) -> None:
    """Fill the missing values of a table in a file; all other cells stay as they are.

    Args:
        data: CSV, Excel, parquet or ``.ts`` file: times and one or several columns of values, with ids where there are
            several series. Empty cells, NA and NaN are missing.
        out: output file: ``.csv``, ``.tsv``, ``.parquet`` or ``.xlsx``. A ``.csv`` file is written as ``data`` is:
            its separator, decimal sign, encoding, dates and columns.
        plot: file for a plot of the filled gaps, for example ``filled.png``. Default: none.
        model: imputer, forecasting model, encoder or mixer by name. Default: the conditional mean of a Gaussian.
        levels: coverage of intervals in percent, separated by commas, for example ``80,95``.
        context: window length in time steps. Default: 96, or less for short series.
        pattern: pattern of hidden cells in training: each ``point`` on its own, a ``subsequence`` of one channel, a
            ``block`` of all channels at once, or one of the three in each window (``mixed``).
        rate: share of the observed cells that is hidden in training.
        channels: columns of values, separated by commas. Default: all columns of numbers.
        reader: how tables are read.
        freq: step between rows. Default: inferred.
        fill_gaps: insert missing time steps as rows, and fill them.
        max_steps: maximum number of optimizer steps of a trained model.
        lr: peak learning rate.
        seed: seed of weights, order and hidden cells.
        device: ``auto``, ``cpu`` or ``cuda``.
        save: folder for the imputer, to be used with ``load``. Default: it is not saved.
        load: folder of a saved imputer to use instead of training.
        verbose: show progress also where the output is not a terminal.
    """
    check_outputs(out, plot, save, {"data": data})
    if load:
        fitting = ("model", "levels", "context", "pattern", "rate", "save", "fill_gaps", "freq")
        check_loaded(impute, locals(), (*fitting, "max_steps", "lr", "seed"))
    table = read_channels(data, reader, channels)
    if load:
        found = Imputer.load(load, device=device)
        frame = renamed(table, found)
    else:
        found = Imputer(
            *([model] if model else []),
            context=context,
            pattern=pattern,
            rate=rate,
            levels=percentages(levels),
            channels=table.channels,
            freq=whole_or_text(freq),
            fill_gaps=fill_gaps,
            max_steps=max_steps,
            lr=lr,
            seed=seed,
            device=device,
            verbose=verbose or sys.stderr.isatty(),
        )
        frame = table.long
        found.fit(frame, **table.names)
    filled = found.transform(frame)
    gaps = int(frame[list(found.channels_)].isna().sum().sum())
    inserted = len(filled) - len(frame)
    what = (
        f"{inserted:,} row{'s' * (inserted > 1)} inserted, " * bool(inserted)
        + f"{gaps:,} of {len(frame) * len(found.channels_):,}"
    )
    print(f"{data}: channels {', '.join(found.channels_)}, {what} values filled, {found.context_} time steps at a time")
    rows, notes = as_written(table, frame, filled, found)
    for note in [*table.notes, *([] if load else found.notes_), *notes]:
        print(f"  {note}")
    table.write(rows, Path(out))
    print(f"filled: {out}")
    if save is not None:
        found.save(save)
        print(f"imputer: {save}")
    if plot is not None:
        save_picture(found.plot(frame), Path(plot))
        print(f"picture: {plot}")
