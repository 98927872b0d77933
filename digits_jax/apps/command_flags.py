"""Flags that several commands share to select a trained model and its data, and the directory that they write to."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from digits_jax import cli, storage
from digits_jax.errors import UserError

WORKDIR = cli.DEFINE_path(
    "workdir", None, "the directory of the run, local or gs://BUCKET/PATH; default: the shipped network"
)
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "'best' (the epoch that the run selected), 'latest' or a step")
# Instead of any location in a run's files, which may come from elsewhere.
DATA_DIR = cli.DEFINE_path("data_dir", None, "directory of prepared data; default: $TFDS_DATA_DIR")


def chosen_workdir() -> str | None:
    """Returns `--workdir`, or None for the shipped network, which is then named on standard error."""
    if WORKDIR.value is None:
        from digits_jax.runs.shipped import NAME, read_shipped

        accuracy = f"{read_shipped()[0]['metrics']['test/accuracy']:.2%} on MNIST's test images"
        print(f"using the shipped network {NAME} ({accuracy}); --workdir=RUN uses another", file=sys.stderr)
    return WORKDIR.value


@contextlib.contextmanager
def output_directory(path: str) -> Iterator[tuple[Path, Any]]:
    """Yields a local directory to write to, and its path or the one in a bucket that it is copied to at the end.

    Raises a UserError if it cannot be written.
    """
    name = storage.open_path(path)
    with storage.local_copy(name) as mirror:
        directory = mirror.local if mirror else Path(name)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            yield directory, name
        except OSError as error:
            raise UserError(f"{storage.write_error(directory, error)}: give another, --output=DIRECTORY") from None
        if mirror:
            mirror.push()
