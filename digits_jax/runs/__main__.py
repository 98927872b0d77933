"""Lists runs: `python -m digits_jax.runs [DIRECTORY ...]`, by default all below `runs`.

`--compare RUN RUN` prints in what two runs differ. Checkpoints are not verified, and nothing is written.
"""

import json
from collections import Counter
from typing import Any

from absl import flags
from rich.table import Column, Table
from rich.text import Text

from digits_jax import cli
from digits_jax.config import SAME_BITS
from digits_jax.errors import ConfigError, UserError
from digits_jax.runs import listing
from digits_jax.runs.console import PLAIN
from digits_jax.storage import is_bucket, open_path

_COLUMNS = [sign + name for sign in ("", "-") for name in listing.COLUMNS]
SORT = flags.DEFINE_enum("sort", "path", _COLUMNS, "the column to sort by; - before it: descending")
WHERE = flags.DEFINE_multi_string("where", [], "FIELD=VALUE: only runs with this value; may be repeated")
# `apps.predict` has one of this name, too, which matters to a process that imports both.
JSON = flags.DEFINE_bool("json", False, "print a JSON object per run", allow_override=True)
COMPARE = flags.DEFINE_bool("compare", False, "print in what the two given runs differ")

_NARROW = 110  # characters; a narrower terminal shows no columns of `_OPTIONAL`
_OPTIONAL = ("best", "selected_by", "time")
_HIDDEN = ("seed", "model.mean", "model.std", *SAME_BITS)  # a column, what the data decide, and how it is computed


def main(argv: list[str]) -> None:
    """Prints the table."""
    paths, conditions = argv[1:] or ["runs"], [listing.parse_condition(text) for text in WHERE.value]
    if COMPARE.value and len(argv) != 3:
        raise ConfigError(f"--compare is given {len(argv) - 1} paths: expected those of two runs")
    for path in paths:
        if is_bucket(path) or not open_path(path).is_dir():
            raise UserError(f"{path} does not exist: expected a local directory of runs")
    if COMPARE.value:
        _show_differences(paths)
        return
    found = dict.fromkeys(run for path in paths for run in listing.find_runs(open_path(path)))
    runs = [run for run in map(listing.summarize, found) if all(listing.fulfills(run, each) for each in conditions)]
    column = SORT.value.removeprefix("-")
    known = [run for run in runs if run[column] is not None]
    known.sort(key=lambda run: run[column], reverse=column != SORT.value)
    runs = known + [run for run in runs if run[column] is None]
    if JSON.value:
        for run in runs:
            cli.console.print(json.dumps({name: value for name, value in run.items() if name != "fields"}))
    else:
        _show_runs(runs)


def _show_runs(runs: list[listing.Summary]) -> None:
    counts = Counter(change for run in runs for change in _changes(run))
    num_read = sum(run["state"] != "corrupted" for run in runs)
    common = [change for change, count in counts.items() if count == max(num_read, 2)]
    if common:
        cli.console.print(f"in all: {_printable(' '.join(common))}\n")
    is_narrow = cli.console.is_terminal and cli.console.width < _NARROW
    columns = [name for name in listing.COLUMNS if name not in ("num_epochs", *_OPTIONAL * is_narrow)]
    table = Table(*(Column(name, overflow="fold") for name in [*columns, "config"]), **PLAIN)
    for run in runs:
        cells = {name: _printable(_format(name, run[name])) for name in listing.COLUMNS}
        cells["epochs"] = f"{cells['epochs']}/{cells['num_epochs']}".strip("/")
        own = sorted((change for change in _changes(run) if change not in common), key=counts.__getitem__)
        # The rarest first, because a terminal cuts the end off.
        text = _printable(run["reason"] if run["state"] == "corrupted" else " ".join(own))
        table.add_row(*(cells[name] for name in columns), Text(text, no_wrap=True, overflow="ellipsis"))
    _show(table, empty="no runs")


def _changes(run: listing.Summary) -> list[str]:
    changes = {name: value[:8] if name.endswith("sha256") else value for name, value in run["config"].items()}
    return [f"{name}={value}".replace(" ", "") for name, value in changes.items() if name not in _HIDDEN]


def _show_differences(paths: list[str]) -> None:
    table = Table(*(Column(_printable(name), overflow="fold") for name in ("field", *paths)), **PLAIN)
    for name, *values in listing.compare(*map(open_path, paths)):
        table.add_row(_printable(name), *(_printable(_format(name, value)) for value in values))
    _show(table, empty="no differences")


def _show(table: Table, *, empty: str) -> None:
    """Prints a table, no line of which is wrapped where the output is no terminal."""
    if not cli.console.is_terminal:
        table.width = cli.console.measure(table, options=cli.console.options.update(max_width=1_000_000)).maximum
    cli.console.print(table if table.row_count else empty)


def _format(name: str, value: Any) -> str:
    if value is None:
        return ""
    return {"accuracy": cli.percent, "best": cli.percent, "time": cli.duration}.get(name, str)(value)


def _printable(text: str) -> str:
    """Escapes what a terminal obeys, such as colors in the name of a directory."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


if __name__ == "__main__":
    cli.run(main, positional=True)
