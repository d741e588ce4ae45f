"""Tables of results in a real browser: they sort by a click or a key, and are filtered."""

import pytest

pytestmark = pytest.mark.browser


def _cells(page, table, column):
    rows = f"[...document.querySelectorAll('{table} tbody tr')].filter(row => !row.hidden)"
    return page.evaluate(f"{rows}.map(row => row.cells[{column}].textContent.trim())")


def test_a_table_sorts_and_filters(page, site):
    page.goto(f"{site}results/recall.html")
    table = "section > .results-filter + .table-wrapper table"
    heads = page.locator(f"{table} th")
    heads.nth(2).click()
    up = [float(cell.split()[0]) for cell in _cells(page, table, 2)]
    assert up == sorted(up) and len(up) > 30
    heads.nth(2).press("Enter")
    assert [float(cell.split()[0]) for cell in _cells(page, table, 2)] == sorted(up, reverse=True)
    assert heads.nth(2).get_attribute("aria-sort") == "descending"
    bar = page.locator(".results-filter").first
    left = sorted(name for name in _cells(page, table, 0) if "mamba" in name.lower())
    bar.locator("input").fill("mamba")
    assert sorted(_cells(page, table, 0)) == left and "Mamba2" in left
    assert bar.locator("output").inner_text() == f"{len(left)} of {len(up)} rows"
    assert page.faults == []


def test_all_rows_of_the_benchmark_are_filtered_with_their_mean(page, site):
    page.goto(f"{site}results/benchmark.html")
    page.locator("details.results-rows summary").click()
    bar = page.locator("details .results-filter")
    bar.get_by_label("model").select_option("SeasonalNaive")
    assert set(_cells(page, "details table", 4)) == {"SeasonalNaive"}
    bar.get_by_label("length").select_option("short, below 100 rows")
    rows = [int(cell) for cell in _cells(page, "details table", 1)]
    assert len(rows) == 5 and max(rows) < 100
    assert "mean relative mase 1.000" in bar.locator("output").inner_text()
    with page.expect_download() as found:
        page.get_by_role("link", name="zoo.csv").click()
    assert found.value.suggested_filename == "zoo.csv"
