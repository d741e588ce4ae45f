"""``seqmix detect``: score and label every row of a table in a file."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from seqmix.analysis import AnomalyDetector
from seqmix.commands._channels import read_channels, renamed
from seqmix.commands._function import call, in_words_of_the_shell
from seqmix.commands._options import TableReader, check_loaded, check_outputs, whole_or_text
from seqmix.commands.outputs import save_picture
from seqmix.errors import ConfigError
from seqmix.numeric import to_numbers
from seqmix.tasks.detection_metrics import average_precision


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    with in_words_of_the_shell(detect, {"--target_col": "--channels"}, "no scores were written"):
        call(detect, command, argv, leading=("data",))


def detect(
    *,
    data: str,
    train: str | None = None,
    out: str = "scores.csv",
    plot: str | None = None,
    model: str | None = None,
    quantile: float = 0.99,
    contamination: float | None = None,
    season: int | None = None,
    label_col: str | None = None,
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
    """Score every row of a table in a file (higher = more anomalous), and label the rows above a threshold.

    Args:
        data: CSV, Excel, parquet or ``.ts`` file: times and one or several columns of values, with ids where there are
            several series.
        train: file of mostly normal rows with the same columns, to fit detector and threshold. Default: ``data``
            itself, whose most unusual rows are then labeled.
        out: file of the table with columns ``score`` and ``anomaly`` (1 or 0): ``.csv``, ``.tsv``, ``.parquet`` or
            ``.xlsx``.
        plot: file for a plot of values, scores and threshold, for example ``scores.png``. Default: none.
        model: detector, forecasting model, encoder or mixer by name. Default: the mean of a forecast error and of two
            distances of windows.
        quantile: the threshold is this quantile of the scores of the training rows.
        contamination: expected share of anomalies among the training rows. Default: ``1 - quantile``.
        season: length of the season in time steps. Default: inferred from the training rows.
        label_col: column of true labels, 1 or 0, to evaluate the scores. Default: none.
        channels: columns of values, separated by commas. Default: all columns of numbers.
        reader: how tables are read.
        freq: step between rows. Default: inferred.
        fill_gaps: insert missing time steps, which have no score.
        max_steps: maximum number of optimizer steps of a trained model.
        lr: peak learning rate.
        seed: seed of weights and order.
        device: ``auto``, ``cpu`` or ``cuda``.
        save: folder for the detector, to be used with ``load``. Default: it is not saved.
        load: folder of a saved detector to use instead of training.
        verbose: show progress also where the output is not a terminal.
    """
    check_outputs(out, plot, save, {"data": data, "train": train})
    if load:
        fitting = ("train", "model", "quantile", "contamination", "season", "save", "freq", "max_steps", "lr", "seed")
        check_loaded(detect, locals(), fitting)
    table = read_channels(data, reader, channels, label_col=label_col, labeled=bool(label_col))
    column: Any = None if label_col is None else to_numbers(table.long[label_col])
    labels = None if column is None else column.to_numpy()
    if labels is not None and not np.isin(labels, (0, 1)).all():
        raise ConfigError(f"--label_col {label_col} should hold 1 for anomalies and 0 for other rows; name another")
    if load:
        found = AnomalyDetector.load(load, device=device)
        frame = renamed(table, found)
        scores = found.score_samples(frame)
    else:
        found = AnomalyDetector(
            *([model] if model else []),
            quantile=quantile,
            contamination=contamination,
            season=season,
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
        if train is None:
            # the rows are labeled that the detector learns from
            found.fit_predict(frame, **table.names)
            scores = found.training_scores_
        else:
            found.fit(read_channels(train, reader, channels, label_col=label_col).long, **table.names)
            scores = found.score_samples(frame)
    flags = scores > found.threshold_
    what = f"{int(flags.sum()):,} of {len(flags):,} rows above the threshold {found.threshold_:.4g}"
    print(f"{data}: channels {', '.join(found.channels_)}, {what}")
    for note in [*table.notes, *([] if load else found.notes_)]:
        print(f"  {note}")
    if labels is not None:
        precision = average_precision(labels, scores.to_numpy())
        print(f"  average precision {precision:.3f}, share of anomalies {labels.mean():.3f}")
    table.write(table.rows.assign(score=scores.to_numpy(), anomaly=flags.to_numpy().astype(int)), Path(out))
    print(f"scores: {out}")
    if save is not None:
        found.save(save)
        print(f"detector: {save}")
    if plot is not None:
        alone = labels if table.names["id_col"] not in frame else None
        save_picture(found.plot(frame, labels=alone), Path(plot))
        print(f"picture: {plot}")
