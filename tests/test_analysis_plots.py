"""Pictures of the estimators say what they show."""

import numpy as np
import pandas as pd
import pytest

from seqmix import Classifier, Imputer
from seqmix.analysis.plot import plot_scores
from seqmix.analysis.series import Columns, read_series
from seqmix.errors import DataError


def texts(figure):
    """Titles, and everything else that is written in the panels."""
    return [
        text.get_text()
        for axes in figure.axes
        for text in (*axes.texts, axes.title, axes._left_title, axes._right_title)
    ]


def test_filled_gaps():
    days = pd.date_range("2026-01-01", periods=80)
    frame = pd.concat(
        [pd.DataFrame({"ds": days, "u": np.sin(np.arange(80)), "v": 1.0}).assign(unique_id=i) for i in "ab"]
    )
    frame.iloc[[5, 120, 121, 122], 1] = np.nan
    model = Imputer("DLinear", max_steps=1, context=8, levels=[80]).fit(frame)
    figure = model.plot(frame, steps=20)
    assert len(figure.axes) == 2
    assert {"b: u", "3 of 80 values filled", "a: u", "1 of 80 values filled"} <= set(texts(figure))
    assert len(model.plot(frame, ids=["b"]).axes) == 2
    with pytest.raises(DataError, match="no series 'c'; there are 'a', 'b'"):
        model.plot(frame, ids=["c"])
    # the gap is in the middle of what is drawn
    x, y = figure.axes[0].lines[0].get_data()
    assert np.isnan(y).nonzero()[0].tolist() == [8, 9, 10] and len(x) == 20


def test_scores_and_threshold():
    X = np.zeros((50, 5))
    X[20] = 9
    series = read_series(X, Columns(), flat="table", channels_first=False)
    figure = plot_scores(series, [X[:, 0]], 5.0, labels=X[:, 0] > 0, i=0, max_channels=2)
    assert len(figure.axes) == 3 and "1 of 50 rows above the threshold" in texts(figure)


def test_classes():
    X, y = [np.full(9, 1.0), np.full(7, 2.0)] * 4, ["low", "high"] * 4
    model = Classifier("Pool", max_steps=1, model_kwargs={"d_model": 8, "n_layers": 1}).fit(X, y)
    figure = model.plot(X, y)
    assert {"Median of each true class", "Series by class", "low", "high"} <= set(texts(figure))
    assert len(model.plot(X).axes) == 1
    assert model.plot(X, ["other", *y[1:]]).axes[1].get_yticklabels()[-1].get_text() == "other"
