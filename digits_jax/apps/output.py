"""The flag `--output` of commands that write files about a trained model."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from absl import flags

from digits_jax import storage
from digits_jax.apps.command_flags import required_workdir
from digits_jax.errors import UserError

OUTPUT = flags.DEFINE_string("output", None, "directory to write to; default: one in the workdir")


@contextlib.contextmanager
def output_directory(default: str) -> Iterator[tuple[Path, Any]]:
    """Yields the local directory to write to, and its name, which may be in a bucket that it is copied to at the end.

    Raises:
      UserError: it cannot be written.
    """
    name = storage.open_path(OUTPUT.value or f"{required_workdir()}/{default}")
    with storage.local_copy(name) as mirror:
        directory = mirror.local if mirror else Path(name)
        try:
            directory.mkdir(parents=True, exist_ok=True)
            yield directory, name
        except OSError as error:
            raise UserError(f"{storage.write_error(directory, error)}: give another, --output=DIRECTORY") from None
        if mirror:
            mirror.push()
