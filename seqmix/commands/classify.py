"""``seqmix classify``: train a classifier on labeled series in a file, and classify others."""

import sys
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from seqmix.analysis import Classifier
from seqmix.commands._channels import ChannelTable, read_channels, renamed
from seqmix.commands._function import call, in_words_of_the_shell
from seqmix.commands._long_table import split
from seqmix.commands._options import TableReader, check_loaded, check_outputs, whole_or_text
from seqmix.commands.outputs import save_picture
from seqmix.commands.tables import print_table
from seqmix.data.files import read_file
from seqmix.data.series.labeled import hold_out
from seqmix.data.series.ts_file import read_ts
from seqmix.errors import ConfigError, DataError
from seqmix.forecasting.tables import write_table


def main(command: str, argv: list[str]) -> None:
    """Run the command."""
    with in_words_of_the_shell(
        classify, {"max_len=...": "longer series", "--target_col": "--channels"}, "no classes were written"
    ):
        call(classify, command, argv, leading=("data", "test"))


def classify(
    *,
    data: str,
    test: str | None = None,
    model: str | None = None,
    out: str = "classes.csv",
    plot: str | None = None,
    label_col: str = "label",
    channels: str | None = None,
    reader: TableReader,
    normalize: Literal["train", "series", "none"] = "train",
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
    """Train a classifier on labeled series in a file, and write the classes of other series.

    Args:
        data: file of labeled series: a ``.ts`` file of the UCR and UEA archives, or a long table (CSV, Excel, parquet)
            of ids, times, values and labels. With ``load`` the series to classify.
        test: file of the series to classify, with or without labels. Default: a held-out quarter of the series of
            each class in ``data``.
        model: classifier, encoder, forecasting model or mixer by name. Default: random convolutions and a ridge.
        out: output file of classes and probabilities: ``.csv``, ``.tsv``, ``.parquet`` or ``.xlsx``.
        plot: file for a plot of the classes, for example ``classes.png``. Default: none.
        label_col: column of labels, one for each id.
        channels: columns of values, separated by commas. Default: all columns of numbers.
        reader: how tables are read.
        normalize: ``train`` standardizes channels by the training series, ``series`` each series by itself.
        freq: step between rows. Default: inferred.
        fill_gaps: insert missing time steps as missing values.
        max_steps: maximum number of optimizer steps of a trained model.
        lr: peak learning rate.
        seed: seed of weights, order and held-out series.
        device: ``auto``, ``cpu`` or ``cuda``.
        save: folder for the classifier, to be used with ``load``. Default: it is not saved.
        load: folder of a saved classifier to use instead of training.
        verbose: print the training history, and show progress also where the output is not a terminal.
    """
    check_outputs(out, plot, save, {"data": data, "test": test})
    if load:
        check_loaded(classify, locals(), ("test", "model", "save", "normalize", "max_steps", "lr", "seed"))
    given = _read(data, reader, channels, label_col, labeled=not load)
    if load:
        found, target = Classifier.load(load, device=device), given
    else:
        train, target = (
            (given, _read(test, reader, channels, label_col, labeled=False)) if test else _parted(given, seed)
        )
        found = Classifier(
            *([model] if model else []),
            normalize=normalize,
            channels=split(channels) or None,
            freq=whole_or_text(freq),
            fill_gaps=fill_gaps,
            max_steps=max_steps,
            lr=lr,
            seed=seed,
            device=device,
            verbose=verbose or sys.stderr.isatty(),
        ).fit(train.X, train.y, **train.names)
    X = target.X if target.table is None else renamed(target.table, found)
    proba = found.predict_proba(X)
    print(f"{data}: {len(found.classes_)} classes, channels {', '.join(found.channels_)}, {found.max_len_} time steps")
    for note in [*given.notes, *([] if load else found.notes_)]:
        print(f"  {note}")
    p = np.asarray(proba)
    predicted = found.classes_[p.argmax(1)]
    ids = proba.index if isinstance(proba, pd.DataFrame) else pd.RangeIndex(len(p))
    frame = pd.DataFrame({target.names.get("id_col", "series"): ids, label_col: predicted})
    if target.y is not None:
        frame["true"] = target.y
        _print_accuracy(found.classes_, predicted, np.asarray(target.y))
    write_table(
        frame.assign(**{f"p_{name}": column for name, column in zip(found.classes_, p.T, strict=True)}), Path(out)
    )
    print(f"classes: {out}")
    if save is not None:
        found.save(save)
        print(f"classifier: {save}")
    if plot is not None:
        save_picture(found.plot(X, target.y), Path(plot))
        print(f"picture: {plot}")


class _Labeled(NamedTuple):
    """Series of a file, and their labels where it has any."""

    X: Any
    y: Any
    table: ChannelTable | None
    names: dict[str, Any]
    notes: list[str]

    def part(self, at: np.ndarray) -> "_Labeled":
        """The series where ``at`` is True."""
        y = np.asarray(self.y)[at]
        if self.table is None:
            return self._replace(X=[self.X[i] for i in np.flatnonzero(at)], y=y)
        column = self.X[self.names["id_col"]]
        rows = self.X[column.isin(column.unique()[at])]
        return self._replace(X=rows, y=y, table=self.table._replace(long=rows))


def _read(path: str, reader: TableReader, channels: str | None, label_col: str, *, labeled: bool) -> _Labeled:
    if path.endswith((".ts", ".ts.gz")):
        file = read_ts(read_file(Path(path)), Path(path).name, labeled=labeled)
        return _Labeled(file.series, file.labels or None, None, {}, [])
    table = read_channels(path, reader, channels, label_col=label_col, labeled=labeled)
    rows, names = table.long, {**table.names, "label_col": label_col}
    if names["id_col"] not in rows:
        raise DataError(f"file {path!r} holds one series, no column names several; pass --id_col")
    y = rows.groupby(names["id_col"], sort=False)[label_col].first() if label_col in rows else None
    return _Labeled(rows, y, table, names, table.notes)


def _parted(given: _Labeled, seed: int) -> tuple[_Labeled, _Labeled]:
    """Series to train on, and a quarter of each class to classify."""
    _, codes = np.unique(np.asarray(given.y).astype(str), return_inverse=True)
    if np.bincount(codes).max() < 2:
        raise ConfigError("every class has one series, and none can be held out; give series to classify with --test")
    held = hold_out(codes, 0.25, seed)
    return given.part(~held), given.part(held)


def _print_accuracy(classes: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> None:
    rows = []
    # a class without training series cannot be found
    for name in [*classes, *np.setdiff1d(truth, classes)]:
        ours = truth == name
        recall = float((predicted[ours] == name).mean()) if ours.any() else float("nan")
        rows.append({"class": str(name), "series": int(ours.sum()), "found": recall})
    print_table(f"accuracy {np.mean(predicted == truth):.3f} on {len(truth)} series", rows)
