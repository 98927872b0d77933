"""Pages under `docs/`: prose written by hand around tables that commands keep true."""

import re
from pathlib import Path

from absl import flags

from digits_jax.errors import UserError
from digits_jax.storage import replace_text

DOCS = flags.DEFINE_string("docs", "docs", "folder of the pages, and of the files that they are made from")


def replace_section(path: Path, name: str, text: str) -> None:
    """Puts `text` between the lines `<!-- name -->` and `<!-- /name -->` of a Markdown file.

    Raises:
      UserError: the file has no such lines.
    """
    page = path.read_text()
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
    if not re.search(f"^{begin}.*^{end}", page, re.MULTILINE | re.DOTALL):
        raise UserError(f"{path}: expected the lines {begin.strip()} and {end.strip()} around what is to be replaced")
    before, rest = page.split(begin, 1)
    replace_text(path, f"{before}{begin}{text.strip()}\n{end}{rest.split(end, 1)[1]}")
