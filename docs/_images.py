"""Pictures of the pages get their sizes, so that nothing moves when they arrive, and thumbnails a text."""

import re
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from PIL import Image
from sphinx.application import Sphinx

_TAG = re.compile(r"<img\b[^>]*>")
_THUMBNAIL = re.compile(r"sphx_glr_(\w+)_thumb\.png")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension."""
    app.connect("html-page-context", _complete)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _complete(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    if "body" in context:
        context["body"] = _TAG.sub(partial(_completed, app), context["body"])


def _completed(app: Sphinx, found: re.Match[str]) -> str:
    tag = found[0]
    (source,) = re.findall(r'src="([^"]*)"', tag)
    name = source.rpartition("/")[2]
    if 'alt=""' in tag and (notebook := _THUMBNAIL.search(name)):
        title = app.env.titles[f"gallery/{notebook[1]}"].astext()
        tag = tag.replace('alt=""', f'alt="{escape(f"a figure of: {title}")}"')
    if " width=" not in tag:
        sources = {copy: file for file, copy in app.builder.images.items()}
        # sphinx-gallery copies its figures by itself
        file = Path(app.srcdir, sources[name]) if name in sources else Path(app.outdir, "_images", name)
        tag = tag.replace("<img", '<img width="{}" height="{}"'.format(*size(file)))
    return tag


def size(file: Path) -> tuple[int, int]:
    """Width and height of a picture in pixels."""
    if file.suffix == ".svg":
        (box,) = re.findall(r'viewBox="[-\d.]+ [-\d.]+ ([\d.]+ [\d.]+)"', file.read_text()[:2000])
        width, height = map(float, box.split())
        return round(width), round(height)
    with Image.open(file) as image:
        return image.size
