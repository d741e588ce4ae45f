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
