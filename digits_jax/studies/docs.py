"""Pages under `docs/`: prose written by hand around tables that commands generate."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from digits_jax import cli
from digits_jax.errors import UserError
from digits_jax.storage import replace_text

DOCS = cli.DEFINE_path("docs", "docs", "folder of the pages, and of the data that they are made from")
MEASURE = flags.DEFINE_bool("measure", False, "measure, which takes minutes, instead of only rewriting the page")
README = cli.DEFINE_path("readme", "README.md", "file with the tables of results")


def with_sections(path: Path, sections: Mapping[str, str]) -> str:
    """Returns a page with new text between the lines `<!-- NAME -->` and `<!-- /NAME -->` of each section.

    Raises a UserError if it cannot be read or has no such lines.
    """
    try:
        page = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None
    for name, text in sections.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->\n"
        if not re.search(f"^{begin}.*^{end}", page, re.MULTILINE | re.DOTALL):
            raise UserError(f"{path}: expected the lines {begin.strip()} and {end.strip()} around the generated text")
        before, rest = page.split(begin, 1)
        page = f"{before}{begin}{text.strip()}\n{end}{rest.split(end, 1)[1]}"
    return page


def replace_sections(path: Path, sections: Mapping[str, str]) -> None:
    """Rewrites sections of a page; see `with_sections`."""
    replace_text(path, with_sections(path, sections))


def read_json(path: Path, hint: str = "") -> Any:
    """Reads a JSON file; raises a UserError, which ends with the hint, if it cannot."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}){hint}") from None
