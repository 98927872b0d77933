"""Directories on Google Cloud Storage (`gs://`) and Amazon S3 (`s3://`), used through local copies.

A bucket has no locks, no atomic renames and no partial writes, on which a run's directory relies. A local copy has
them; the bucket is as new as the last `Mirror.push`.
"""

import contextlib
import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from digits_jax.errors import ConfigError, UserError
from digits_jax.storage.files import MANIFEST

# Where TensorFlow is installed, etils would import it for buckets; it decides so once, for the first path of any kind.
os.environ.setdefault("EPATH_USE_TF", "false")

PathLike = str | os.PathLike[str]
_EXTRAS = {"gs": ("gcs", "gcsfs"), "s3": ("s3", "s3fs")}  # by scheme, the extra and the package that etils uses


def is_bucket(path: PathLike) -> bool:
    """Returns True for a path on a bucket."""
    return str(path).startswith(tuple(f"{scheme}://" for scheme in _EXTRAS))


def open_path(path: PathLike) -> Any:
    """Returns a `pathlib.Path` with `~` expanded, or for a bucket a path with the same methods."""
    if not is_bucket(path):
        return Path(path).expanduser()
    extra, package = _EXTRAS[str(path)[:2]]
    try:
        importlib.import_module(package)  # etils would report its absence late and in several lines
        from etils import epath
    except ImportError as error:
        raise UserError(f"{path} needs the extra {extra} ({error}): ./launch.sh setup {extra}") from None
    return epath.Path(path)


def local_folder(flag: str, path: str) -> Path:
    """Returns the directory that a flag names; raises a ConfigError if it is on a bucket."""
    if is_bucket(path):
        raise ConfigError(f"--{flag} is {path!r}: expected a local folder")
    return open_path(path)


class Mirror:
    """A directory on a bucket and its local copy. All methods raise a UserError if the bucket cannot be used."""

    def __init__(self, remote: PathLike, local: Path) -> None:
        self.local = local
        self.remote = str(remote)
        self._folder = open_path(remote)
        self._sent: dict[str, tuple[int, int]] = {}  # size and modification time of each file that the bucket has

    def has(self, name: str) -> bool:
        """Returns True if the bucket has a file of this name in the directory."""
        with self._explained("read"):
            return (self._folder / name).exists()

    def pull(self) -> bool:
        """Copies the directory from the bucket; returns True if it held any file."""
        with self._explained("read"):
            self.local.mkdir(parents=True, exist_ok=True)
            for name in _files(self._folder):
                path = self.local / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes((self._folder / name).read_bytes())
        self._sent = self._stats()
        return bool(self._sent)

    def push(self) -> None:
        """Copies new and changed files to the bucket, then removes deleted ones from it.

        Manifests go last, so that the bucket holds a complete checkpoint wherever this is interrupted.
        """
        stats = self._stats()
        changed = [name for name, stat in stats.items() if self._sent.get(name) != stat]
        with self._explained("written"):
            for name in sorted(changed, key=lambda name: (Path(name).name == MANIFEST, name)):
                (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
                (self._folder / name).write_bytes((self.local / name).read_bytes())
                self._sent[name] = stats[name]
            for name in self._sent.keys() - stats.keys():
                (self._folder / name).unlink(missing_ok=True)
                del self._sent[name]

    def _stats(self) -> dict[str, tuple[int, int]]:
        stats = {name: (self.local / name).stat() for name in _files(self.local) if name != "lock"}
        return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}

    @contextlib.contextmanager
    def _explained(self, verb: str) -> Iterator[None]:
        """Turns the exceptions of gcsfs, s3fs and of the libraries below them into one line."""
        try:
            yield
        except Exception as error:
            raise UserError(f"{self.remote} cannot be {verb} ({type(error).__name__}: {error})") from None


def _files(folder: Any) -> list[str]:
    """Returns the relative paths of all files below a directory, sorted; none if it does not exist."""
    names = []
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        names += [f"{path.name}/{name}" for name in _files(path)] if path.is_dir() else [path.name]
    return names


@contextlib.contextmanager
def local_copy(path: PathLike) -> Iterator[Mirror | None]:
    """Yields a temporary copy of a directory on a bucket, or None for a local one; UserErrors name the original."""
    if not is_bucket(path):
        yield None
        return
    with TemporaryDirectory() as temporary:
        mirror = Mirror(path, Path(temporary))
        try:
            mirror.pull()
            yield mirror
        except UserError as error:
            raise type(error)(str(error).replace(temporary, str(path))) from None
