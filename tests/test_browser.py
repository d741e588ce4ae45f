"""The built pages in a real browser: they load, their links lead somewhere, and nothing is wider than a phone."""

from urllib.parse import unquote, urldefrag, urljoin

import pytest
from browsing import PHONE, SITE

pytestmark = pytest.mark.browser


def test_every_page_loads_and_fits_a_phone(page, site):
    wide = []
    for file in sorted(SITE.glob("**/*.html")):
        name = str(file.relative_to(SITE))
        page.goto(site + name)
        if page.evaluate("document.documentElement.scrollWidth") > PHONE["width"]:
            wide.append(name)
    assert page.faults == []
    assert wide == []


def test_every_internal_link_resolves(page, site):
    """Links and the places inside pages that they name."""
    found = {}
    page.route("**/*.js", lambda route: route.abort())
    for file in sorted(SITE.glob("**/*.html")):
        name = str(file.relative_to(SITE))
        page.set_content(file.read_text(), wait_until="commit")
        links = page.eval_on_selector_all("a[href]", "all => all.map(a => a.getAttribute('href'))")
        ids = page.eval_on_selector_all("[id]", "all => all.map(a => a.id)")
        found[urljoin(site, name)] = links, set(ids)
    broken = []
    for base, (links, _) in found.items():
        for link in links:
            target, place = urldefrag(urljoin(base, link))
            if not target.startswith(site):
                continue
            target = target + "index.html" if target.endswith("/") else target
            there = (SITE / unquote(target.removeprefix(site))).is_file()
            # places in source code and in files that are no page are not looked at
            named = not place or target not in found or unquote(place) in found[target][1]
            if not (there and named):
                broken.append((base.removeprefix(site), link))
    assert broken == []


def test_tables_of_results_filter_and_sort(page, site):
    page.goto(site + "results/long_horizon.html")
    bar = page.locator(".results-filter.ready").first
    table = page.locator(".results-filter.ready + *").first
    rows, word = table.locator("tbody tr"), table.locator("tbody tr td").first.inner_text()
    before = rows.count()
    bar.locator("input").fill(word)
    left = rows.locator("visible=true")
    assert 0 < left.count() < before and bar.locator("output").inner_text().startswith(
        f"{left.count()} of {before} rows"
    )
    assert all(word.lower() in text.lower() for text in left.all_inner_texts())
    bar.locator("input").fill("no such word")
    assert left.count() == 0
    bar.locator("input").fill("")
    table.locator("th").first.click()
    names = [row.split("\t")[0] for row in rows.all_inner_texts()]
    assert names in (sorted(names, key=str.lower), sorted(names, key=str.lower)[::-1]) and rows.count() == before


MOVED = (
    "window.moved = 0; new PerformanceObserver(list => list.getEntries().forEach(entry => {window.moved += "
    "entry.hadRecentInput ? 0 : entry.value})).observe({type: 'layout-shift', buffered: true})"
)
# pictures that only adorn say so by role="presentation"
NAMELESS = "all => all.filter(a => !a.alt && a.getAttribute('role') !== 'presentation').map(a => a.src)"
SIZELESS = "all => all.filter(a => !(a.getAttribute('width') && a.getAttribute('height'))).map(a => a.src)"


def test_every_picture_has_a_text_and_a_size(page, site):
    page.route("**/*.js", lambda route: route.abort())
    found, count = [], 0
    for file in sorted(SITE.glob("**/*.html")):
        page.set_content(file.read_text(), wait_until="commit")
        count += page.locator("img").count()
        found += page.eval_on_selector_all("img", NAMELESS) + page.eval_on_selector_all("img", SIZELESS)
    assert found == [] and count > 30


PICTURES = ["index", "gallery/index", "results/benchmark", "results/recall", "understand/growth", "understand/words"]


@pytest.mark.parametrize("name", PICTURES)
def test_nothing_moves_while_a_page_loads(page, site, name):
    page.add_init_script(MOVED)
    page.goto(f"{site}{name}.html", wait_until="networkidle")
    page.wait_for_timeout(300)
    assert page.evaluate("window.moved") < 0.1


def test_code_of_90_columns_fits_a_wide_screen(page, site):
    page.set_viewport_size({"width": 1440, "height": 900})
    page.goto(f"{site}start/forecast.html")
    page.evaluate("document.querySelector('article pre').textContent = 'x'.repeat(90)")
    assert page.evaluate("(a => a.scrollWidth <= a.clientWidth)(document.querySelector('article pre'))")
    assert page.evaluate("document.documentElement.scrollWidth") <= 1440


def test_the_filter_of_a_table_is_reached_and_used_by_the_keyboard(page, site):
    page.goto(f"{site}results/recall.html")
    page.locator(".results-filter.ready").first.wait_for()
    seen = []
    for _ in range(60):
        page.keyboard.press("Tab")
        seen.append(page.evaluate("document.activeElement.closest('.results-filter, th, .scrolls')?.className"))
        if page.evaluate("document.activeElement.type") == "search" and seen[-1] is not None:
            break
    assert "results-filter" in str(seen[-1]), seen
    rows = page.locator(".results-filter.ready + * tbody tr")
    before = rows.locator("visible=true").count()
    page.keyboard.type("mamba")
    assert 0 < rows.locator("visible=true").count() < before
