"""Pictures: what is drawn is what is in the frames; figures belong to nobody; messages."""

import io

import numpy as np
import pandas as pd
import pytest

from seqmix.errors import DataError
from seqmix.forecasting.plot import plot_forecast

HORIZON = 5


def frames(start="2024-01-01", freq="h", tz=None, names=("unique_id", "ds", "y")):
    """Forty steps of two series, and a forecast of five more from two models, one of them with intervals."""
    stamps = (
        pd.RangeIndex(40 + HORIZON) if freq is None else pd.date_range(start, periods=40 + HORIZON, freq=freq, tz=tz)
    )
    rows = [{"id": i, "at": t, "y": k + 10.0 * (i == "b")} for i in "ab" for k, t in enumerate(stamps)]
    whole = pd.DataFrame(rows).set_axis(list(names), axis=1)
    position = whole.groupby(names[0]).cumcount()
    history = whole[position < 40].reset_index(drop=True)
    ahead = whole[position >= 40].reset_index(drop=True)
    forecast = ahead.drop(columns=names[2]).assign(DLinear=ahead[names[2]] + 1)
    for level, width in ((80, 2), (95, 4)):
        forecast[f"DLinear-lo-{level}"], forecast[f"DLinear-hi-{level}"] = (
            forecast.DLinear - width,
            forecast.DLinear + width,
        )
    return history, forecast.assign(SeasonalNaive=0.0), whole


def cross_validation():
    history, _, whole = frames()
    stamps = history.ds.unique()
    parts = []
    for at in (29, 34):
        rows = whole[(whole.ds > stamps[at]) & (whole.ds <= stamps[at + HORIZON])]
        step = rows.groupby("unique_id").cumcount() + 1
        # an error of the step itself, and twice it
        parts.append(rows.assign(cutoff=stamps[at], A=rows.y + step, B=rows.y - 2 * step))
    return history, pd.concat(parts, ignore_index=True)


def lines(axes):
    return [line for line in axes.lines if len(line.get_xdata()) > 2]


def drawn(figure):
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=40)
    return file.tell()


@pytest.mark.parametrize(
    ("freq", "tz"), [("h", None), ("D", "Europe/Berlin"), ("MS", None), (None, None)], ids=["h", "zone", "month", "int"]
)
def test_forecast(freq, tz):
    history, forecast, _ = frames(freq=freq, tz=tz)
    figure = plot_forecast(history, forecast)
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["a", "b"]
    for axes, which in zip(figure.axes, "ab", strict=True):
        truth, model, naive = lines(axes)
        observed = history.y[history.unique_id == which].tolist()
        assert truth.get_ydata().tolist() == observed[-12:]
        # forecasts and their intervals go on from the last observed value
        assert model.get_ydata().tolist() == [observed[-1], *forecast.DLinear[forecast.unique_id == which]]
        assert not naive.get_ydata()[1:].any() and len({truth.get_color(), model.get_color(), naive.get_color()}) == 3
        # the widest interval first, so that the narrow one lies on it
        heights = [np.ptp(band.get_paths()[0].vertices[:, 1]) for band in axes.collections]
        assert heights == [8 + HORIZON - 1, 4 + HORIZON - 1]
    # names once, beside the panel with nothing to its right
    assert [len(axes.texts) for axes in figure.axes] == [0, 2]
    assert drawn(figure) > 1000


def test_time_of_day_is_that_of_the_zone():
    history, forecast, _ = frames(tz="Asia/Tokyo")
    axes = plot_forecast(history, forecast, ids=["b"]).axes[0]
    assert lines(axes)[1].get_xdata()[1] == np.datetime64("2024-01-02T16:00")


def test_what_is_asked_for_is_drawn():
    names = ("store", "day", "sold")
    history, forecast, whole = frames(freq="D", names=names)
    columns = {"id_col": "store", "time_col": "day", "target_col": "sold"}
    before = whole.copy(), forecast.copy()
    figure = plot_forecast(whole, forecast, ids=["b"], levels=[80], max_history=7, **columns)
    (axes,) = figure.axes
    # seven steps of history, and the truth of the horizon where it is known
    assert lines(axes)[0].get_ydata().tolist() == whole.sold[whole.store == "b"].tolist()[-7 - HORIZON :]
    assert len(axes.collections) == 1
    assert len(plot_forecast(history, forecast, max_series=1, levels=[], **columns).axes) == 1
    pd.testing.assert_frame_equal(whole, before[0])
    pd.testing.assert_frame_equal(forecast, before[1])


def test_cross_validation_starts_at_every_cutoff():
    history, cv = cross_validation()
    figure = plot_forecast(history, cv, ids=["a"])
    (axes,) = figure.axes
    assert len(lines(axes)) == 1 + 2 * 2
    marks = [line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 2]
    assert marks == [np.datetime64("2024-01-02T06:00"), np.datetime64("2024-01-02T11:00")]
    assert drawn(figure) > 1000


def test_intervals_of_several_models_do_not_hide_each_other():
    history, forecast, _ = frames()
    other = {c.replace("DLinear", "TSM2"): forecast[c] for c in forecast if c.startswith("DLinear")}
    figure = plot_forecast(history, forecast.assign(**other), max_series=1, unit="MW")
    (axes,) = figure.axes
    assert len(axes.collections) == 2 and axes.get_ylabel() == "MW"
    dashed = [line for line in axes.lines if line.get_linestyle() == "--"]
    assert [line.get_ydata()[-1] - history.y[39] - HORIZON for line in dashed] == [-3, 5]
    assert figure.get_supxlabel() == (
        "1 of 2 series. bands: 80, 95 % intervals of DLinear; dashed: 95 % intervals of the others"
    )


def test_long_names_are_shortened():
    history, forecast, _ = frames()
    renamed = [frame.replace({"unique_id": {"a": "x" * 99}}) for frame in (history, forecast)]
    titles = [axes.get_title(loc="left") for axes in plot_forecast(*renamed).axes]
    assert titles == [f"{'x' * 17}\u2026{'x' * 16}", "b"]
    assert plot_forecast(history, forecast, ids="a", levels=80).get_supxlabel().startswith("bands: 80 %")


def test_names_of_lines_do_not_overlap():
    history, forecast, _ = frames()
    models = {f"M{i}": forecast.DLinear for i in range(5)}
    axes = plot_forecast(history, forecast[["unique_id", "ds"]].assign(**models), ids=["a"]).axes[0]
    heights = sorted(text.xy[1] for text in axes.texts)
    low, high = axes.get_ylim()
    assert len(heights) == 5 and np.diff(heights).min() > 0.08 * (high - low)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ids": ["c"]}, "no forecast of series 'c'; the frame has 'a', 'b'"),
        ({"levels": [90]}, "no intervals of level 90 in the forecasts, they have 80, 95; predict with levels"),
    ],
)
def test_what_is_not_there(options, message):
    history, forecast, _ = frames()
    with pytest.raises(DataError) as error:
        plot_forecast(history, forecast, **options)
    assert str(error.value) == message


def test_figures_belong_to_nobody():
    from matplotlib import pyplot

    history, forecast, _ = frames()
    plot_forecast(history, forecast)
    assert pyplot.get_fignums() == []
