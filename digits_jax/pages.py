"""Markdown pages, and the same as one self-contained HTML file."""

import base64
import hashlib
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from string import Template

import numpy as np
from markdown_it import MarkdownIt
from PIL import Image

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
body { color: light-dark(#222, #e5e5e5); background: light-dark(#fff, #1a1a1a); }
h1 { font-size: 1.6rem; line-height: 1.25; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .8rem; border-bottom: 1px solid light-dark(#ddd, #444); text-align: left; vertical-align: top; }
th { border-bottom: 2px solid #888; }
td { white-space: nowrap; } code { font-size: .85em; }
p img { width: 100%; max-width: 45rem; }
.digits img { width: 84px; image-rendering: pixelated; } .digits figure { display: inline-block; margin: .4rem; }
.digits figcaption { font-size: .75rem; text-align: center; }
.right { text-align: right; }
/* White becomes the page's dark gray; hues stay. */
@media (prefers-color-scheme: dark) { p img, .digits img:not(.color) { filter: invert(.9) hue-rotate(180deg); } }
"""
# What escaping misses, the browser refuses: scripts, styles but this one, images from elsewhere, forms.
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "img-src data:; base-uri 'none'; form-action 'none'"
)
_PAGE = Template(f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>{_STYLE}</style>
<main>
$body
</main>
</html>
""")
_MARKUP = re.compile(r"[\\`*<\[\]|~&]|(?<![^\W_])_|_(?![^\W_])|^[#>+=-]")


def escape(text: object) -> str:
    """Escapes text of unknown origin, so that it is shown as it is: as no HTML, link, emphasis, list or table cell."""
    return re.sub(r"^(\d+)([.)])(?= |$)", r"\1\\\2", _MARKUP.sub(r"\\\g<0>", " ".join(str(text).split())))


def code(text: str) -> str:
    """Returns text as code, also in a table; backticks become apostrophes."""
    return "`" + " ".join(text.split()).replace("`", "'").replace("|", "\\|") + "`"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, text_columns: int = 1) -> str:
    """Returns a table with the first `text_columns` columns aligned to the left, and the others to the right."""
    alignment = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    return "".join(f"| {' | '.join(cells)} |\n" for cells in (header, alignment, *rows))


def to_html(markdown: str, images: Mapping[str, bytes], *, appendix: str = "") -> str:
    """Converts a page to one self-contained file, with PNGs by name, and HTML to add at the end; escapes other HTML."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    title = re.sub("<[^>]*>", "", body.partition("</h1>")[0])
    body = body.replace('style="text-align:right"', 'class="right"')
    body = body.replace("<table>", '<div class="wide" tabindex="0"><table>').replace("</table>", "</table></div>")
    for name, data in images.items():
        body = body.replace(f'src="{name}"', f'src="{_data_uri(data)}"')
    return _PAGE.substitute(title=title, body=body + appendix)


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def digits_gallery(title: str, pictures: Iterable[tuple[np.ndarray, str]]) -> str:
    """Returns HTML for images `[H, W, C]` with a caption, in HTML, under each.

    Images of three channels are shown as RGB; of others the first channel, 255 as black.
    """
    cells = []
    for pixels, caption in pictures:
        file = io.BytesIO()
        Image.fromarray(pixels if pixels.shape[-1] == 3 else 255 - pixels[..., 0]).save(file, "PNG")
        kind = ' class="color"' if pixels.shape[-1] == 3 else ""
        image = f'<img{kind} src="{_data_uri(file.getvalue())}" alt="">'
        cells.append(f"<figure>{image}<figcaption>{caption}</figcaption></figure>")
    return f'<h2>{title}</h2>\n<div class="digits">{"".join(cells)}</div>\n'
