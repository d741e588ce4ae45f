"""The page that forecasts in the browser: numbers are those of Python, messages those of ``seqmix forecast``."""

import io

import numpy as np
import pandas as pd
import pytest
from browsing import opened

from seqmix import Forecaster, cli

pytestmark = pytest.mark.browser

DAYS = pd.date_range("2026-01-01", periods=60, freq="D").strftime("%Y-%m-%d")
ROWS = [f"{day},{10 + k % 7 + k / 10:.1f}" for k, day in enumerate(DAYS)]


def table(*rows, header="ds,y"):
    return "\n".join([header, *rows])


@pytest.fixture(scope="module")
def tried(browser, site):
    """The page, opened once: the model takes a second to load."""
    with opened(browser, site) as page:
        page.goto(site + "try/index.html")
        done(page)
        yield page


@pytest.fixture
def trying(tried):
    yield tried
    assert tried.faults == []


def done(page):
    """Wait for a forecast or a message, and return what the page says."""
    page.wait_for_function("!/^(Loading|Forecasting)/.test(document.querySelector('#try-message').textContent)")
    return page.text_content("#try-message")


def paste(page, text, model="ZeroShot", *, gaps=False):
    """Paste a table, with the other fields set before, as if that had been done long ago."""
    fields = {"model": model, "horizon": "4", "level": "80", "freq": ""}
    page.evaluate(
        "all => Object.entries(all).forEach(([k, v]) => document.querySelector(`#try-${k}`).value = v)", fields
    )
    page.evaluate("on => document.querySelector('#try-gaps').checked = on", gaps)
    page.evaluate("document.querySelector('#try-message').textContent = 'Loading'")
    page.fill("#try-data", text)
    return done(page)


def choose(page, field, value):
    page.evaluate("document.querySelector('#try-message').textContent = 'Loading'")
    page.select_option(f"#try-{field}", value)
    return done(page)


def downloaded(page):
    with page.expect_download() as download:
        page.click("#try-download")
    return pd.read_csv(io.StringIO(download.value.path().read_text()))


def wanted(model, df, horizon, **options):
    own = {"model_kwargs": {"weights": "shared"}} if model == "Ridge" else {"max_steps": 0}
    return Forecaster(model, horizon, levels=[80], device="cpu", **own, **options).fit(df).predict()


def assert_same(found, want):
    assert [str(time)[: len(name)] for time, name in zip(want["ds"], found.iloc[:, 0], strict=True)] == [
        *found.iloc[:, 0]
    ]
    np.testing.assert_allclose(found.iloc[:, 1:].to_numpy(), want.iloc[:, -3:].to_numpy(), rtol=1e-4)
    assert [*found.columns[1:]] == [*want.columns[-3:]]


@pytest.mark.parametrize("model", ["ZeroShot", "Ridge"])
@pytest.mark.parametrize("name", ["air_passengers.csv", "hourly.csv", "weekly.csv"])
def test_examples_are_forecast_as_in_python(trying, site, model, name):
    trying.evaluate("model => document.querySelector('#try-model').value = model", model)
    trying.evaluate("document.querySelector('#try-example').value = ''")
    said = choose(trying, "example", name)
    df = pd.read_csv(f"{site}try/{name}").set_axis(["ds", "y"], axis=1)
    horizon = int(trying.input_value("#try-horizon"))
    assert said.startswith(f"{model}: {len(df)} values"), said
    assert_same(downloaded(trying), wanted(model, df, horizon))
    shown = trying.locator("#try-table tbody tr")
    assert shown.count() == horizon and trying.locator("#try-chart polyline").count() == 2


@pytest.mark.parametrize("model", ["ZeroShot", "Ridge"])
@pytest.mark.parametrize(
    ("text", "change"),
    [
        pytest.param(table(*ROWS[::-1]), lambda df: df, id="unsorted"),
        pytest.param(table(*ROWS).replace(",", ";").replace(".", ","), lambda df: df, id="semicolons"),
        pytest.param(table(*[f"{row}e12" for row in ROWS]), lambda df: df.assign(y=df["y"] * 1e12), id="large"),
        pytest.param(table(*[f"{day},5" for day in DAYS]), lambda df: df.assign(y=5.0), id="constant"),
        pytest.param(
            table(*[f"{row}," if k == 20 else row for k, row in enumerate(ROWS)]).replace(ROWS[20], DAYS[20]),
            lambda df: df.assign(y=df["y"].where(df.index != 20)),
            id="missing",
        ),
        pytest.param(
            table(*[f"a,{row}" for row in ROWS], *[f"b,{row}" for row in ROWS[:9]], header="id,ds,y"),
            lambda df: df,
            id="several",
        ),
    ],
)
def test_tables_are_read_as_in_python(trying, model, text, change):
    said = paste(trying, text, model)
    assert said.startswith(f"{model}: "), said
    df = change(pd.DataFrame({"ds": DAYS, "y": [float(row.split(",")[1]) for row in ROWS]}))
    assert_same(downloaded(trying), wanted(model, df, 4))
    assert trying.locator("#try-series-row").is_visible() == ("id" in text)


@pytest.mark.parametrize(
    ("text", "model"),
    [
        pytest.param("", "ZeroShot", id="empty"),
        pytest.param("ds,y", "ZeroShot", id="no rows"),
        pytest.param(table(ROWS[0]), "ZeroShot", id="one row"),
        pytest.param(table(*ROWS[:9], "2026-01-10,abc", *ROWS[10:]), "ZeroShot", id="text"),
        pytest.param(table(*ROWS, ROWS[3], ROWS[5]), "ZeroShot", id="duplicates"),
        pytest.param(table(*ROWS[:8], *ROWS[10:]), "ZeroShot", id="gaps"),
        pytest.param(
            table(*[f"{name},{row}" for name in "ab" for row in ROWS if row != ROWS[30]], header="id,ds,y"),
            "ZeroShot",
            id="gaps of two",
        ),
        pytest.param(table(*[f"a,{row}" for row in [*ROWS, ROWS[0]]], header="id,ds,y"), "ZeroShot", id="id twice"),
        pytest.param(
            table(*[f"{'' if k == 4 else 'a'},{row}" for k, row in enumerate(ROWS)], header="id,ds,y"),
            "ZeroShot",
            id="no id",
        ),
        pytest.param("\n".join(ROWS), "ZeroShot", id="no header"),
        pytest.param(table(*ROWS[:5], "2026-01-06,1,2"), "ZeroShot", id="too many fields"),
        pytest.param(table(*ROWS[:30], "2026-01-31 07:00,1"), "ZeroShot", id="off the grid"),
        pytest.param(table(*[f"day {row}" for row in ROWS]), "ZeroShot", id="no dates"),
        pytest.param(table(*ROWS, header="u,v").replace("2026", "year 26"), "ZeroShot", id="no column of times"),
        pytest.param(table("03/01/2026,1", "04/01/2026,2"), "ZeroShot", id="two ways"),
        pytest.param(table("2026-01-03,1.234", "2026-01-04,985"), "ZeroShot", id="thousands or decimals"),
        pytest.param(table(*(f"2026-01-0{k},{k if k % 2 else ''}" for k in range(1, 7))), "Ridge", id="no differences"),
        pytest.param(table(*ROWS[:4]), "Ridge", id="too short"),
    ],
)
def test_what_is_wrong_is_said_in_the_words_of_the_command(trying, tmp_path, monkeypatch, capsys, text, model):
    said = paste(trying, text, model)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pasted.csv").write_text(text)
    words = ["--data", "pasted.csv", "--horizon", "4", "--levels", "80", "--model", model]
    assert cli.run(["forecast", *words]) == 1
    assert said == capsys.readouterr().err.splitlines()[-1].removeprefix("seqmix: ")
    assert trying.locator("#try-chart polyline").count() == 0 and trying.is_disabled("#try-download")


def test_the_code_reads_the_table_as_the_page_does(trying, tmp_path, monkeypatch):
    rows = [f"{day[8:]}.{day[5:7]}.{day[:4]};{k % 7},5" for k, day in enumerate(DAYS)]
    text = table(*rows, header="day;sold")
    assert paste(trying, text).startswith("ZeroShot: 60 values")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pasted.csv").write_text(text)
    *lines, last = trying.text_content("#try-code").splitlines()
    names = {"pd": pd, "Forecaster": Forecaster}
    exec("\n".join(lines), names)
    assert_same(downloaded(trying), eval(last, names).rename(columns={"day": "ds"}))


def test_what_the_page_cannot_is_said_and_not_tried(trying, tmp_path):
    hours = pd.date_range("2000-01-01", periods=10_001, freq="h").strftime("%Y-%m-%d %H:%M")
    (tmp_path / "long.csv").write_text(table(*[f"{hour},{k % 24}" for k, hour in enumerate(hours)]))
    paste(trying, table(*ROWS), "Ridge")
    trying.evaluate("document.querySelector('#try-message').textContent = 'Loading'")
    trying.set_input_files("#try-file", tmp_path / "long.csv")
    assert done(trying).startswith("Ridge takes 10000 rows at most in this page, got 10001; use")
    assert "at most 64 steps" in trying.text_content(".try-note")


def test_times_with_a_zone_are_read_as_in_python(trying):
    """One zone is kept; of two, as where the clock is changed, all become UTC."""
    hours = pd.date_range("2026-03-28", periods=60, freq="h", tz="UTC")
    for times, zone in ((hours.tz_convert("Etc/GMT-2"), "+02:00"), (hours.tz_convert("Europe/Berlin"), "UTC")):
        text = table(*[f"{time.isoformat()},{k % 24}" for k, time in enumerate(times)])
        assert f"step h, time zone {zone}, season 24" in paste(trying, text)
        found = downloaded(trying)
        want = times if zone != "UTC" else hours
        assert found.iloc[0, 0] == str(want[-1] + pd.Timedelta(hours=1))[:16]
    assert "utc=True" in trying.text_content("#try-code")


def test_gaps_are_filled_when_asked_for(trying):
    said = paste(trying, table(*ROWS[:8], *ROWS[10:]), gaps=True)
    assert said.startswith("ZeroShot: 58 values"), said
    df = pd.DataFrame({"ds": DAYS, "y": [float(row.split(",")[1]) for row in ROWS]}).drop(index=[8, 9])
    assert_same(downloaded(trying), wanted("ZeroShot", df, 4, fill_gaps=True))


def test_fields_have_labels_and_are_reached_by_the_keyboard(trying):
    fields = "#try-form select:visible, #try-form input:visible, #try-form textarea"
    assert paste(trying, table(*ROWS)).startswith("ZeroShot: 60 values")
    names = trying.eval_on_selector_all(fields, "all => all.map(field => field.labels.length)")
    assert len(names) == 8 and all(names)
    trying.focus("#try-example")
    seen = set()
    for _ in range(14):
        seen.add(trying.evaluate("document.activeElement.id"))
        trying.keyboard.press("Tab")
    assert {"try-example", "try-file", "try-data", "try-model", "try-horizon", "try-download"} <= seen
    assert "numbers" in trying.get_attribute("#try-chart", "aria-label")


def test_nothing_moves_when_a_forecast_arrives(page, site):
    page.add_init_script(
        "window.moved = 0; new PerformanceObserver(list => list.getEntries().forEach(entry => {window.moved += "
        "entry.hadRecentInput ? 0 : entry.value})).observe({type: 'layout-shift', buffered: true})"
    )
    page.goto(site + "try/index.html")
    done(page)
    assert page.evaluate("window.moved") < 0.02
