"""The built pages from a plain static server, and a browser that knows that server alone: a pytest plugin."""

import functools
import os
import shutil
import threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

SITE = Path(os.environ.get("SEQMIX_SITE", Path(__file__).parents[1] / "docs" / "_build"))
PHONE = {"width": 390, "height": 844}


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format, *args):
        pass


@pytest.fixture(scope="module")
def site():
    """The site from a plain static server."""
    if not (SITE / "index.html").exists():
        pytest.skip("needs the built pages: sphinx-build -W docs docs/_build, or $SEQMIX_SITE")
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=SITE)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    sync = pytest.importorskip("playwright.sync_api", reason="needs pip install playwright")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking", "--disable-sync"]
    with sync.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=quiet)
        yield chromium
        chromium.close()


@contextmanager
def opened(browser, site):
    """A page as wide as a phone that knows this server alone; ``faults`` is what its console said."""
    context = browser.new_context(viewport=PHONE, accept_downloads=True, reduced_motion="reduce")
    context.set_default_timeout(120_000)
    page, page.faults = context.new_page(), []
    page.route("**/*", lambda route: route.continue_() if route.request.url.startswith(site) else route.abort())
    page.on("pageerror", lambda error: page.faults.append(f"{page.url}: {error}"))
    page.on("console", lambda message: page.faults.extend(_said(page, message, site)))
    yield page
    context.close()


@pytest.fixture
def page(browser, site):
    with opened(browser, site) as page:
        yield page


def _said(page, message, site):
    # what is not of this site was refused above
    ours = message.location["url"].startswith(site) and not message.location["url"].endswith("/favicon.ico")
    return [f"{page.url}: {message.text}"] if message.type in ("error", "warning") and ours else []
