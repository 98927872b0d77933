"""Folders on a bucket (`gs://`), as local copies that are used like any folder and sent back.

A bucket has no locks, no renames and no part of a file that could be written anew, and the promises of a run's folder
rest on them. A copy keeps the promises; what lies on the bucket is as new as the last `push`.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from etils import epath

from digits_jax.errors import ConfigError, UserError
from digits_jax.storage.disk import MANIFEST


def is_bucket(path: epath.PathLike) -> bool:
    return str(path).startswith("gs://")


def local_folder(flag: str, path: str) -> Path:
    """The folder that a flag names, where one on a bucket cannot be used.

    Raises:
      ConfigError: it is on a bucket.
    """
    if is_bucket(path):
        raise ConfigError(f"--{flag} is {path!r}: expected a local folder")
    return Path(path)


class Mirror:
    """A local folder and one on a bucket.

    Args:
      remote: starts with `gs://`.
      local: is filled by `pull`.
    """

    def __init__(self, remote: epath.PathLike, local: Path) -> None:
        self.local = local
        self.remote = epath.Path(remote)
        self._sent: dict[str, tuple[int, int]] = {}  # size and time of change of what the bucket has, by name

    def pull(self) -> bool:
        """Copies all that the bucket has into the local folder; returns whether that is anything.

        Raises:
          UserError: the bucket cannot be read.
        """
        with self._explained("read"):
            self.local.mkdir(parents=True, exist_ok=True)
            for name in _files(self.remote):
                path = self.local / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes((self.remote / name).read_bytes())
        self._sent = self._found()
        return bool(self._sent)

    def push(self) -> None:
        """Copies to the bucket what has changed since, then removes from it what is gone.

        In this order, and a checkpoint's sums after its files: wherever it is cut short, a whole checkpoint is there.

        Raises:
          UserError: the bucket cannot be written.
        """
        found = self._found()
        changed = [name for name, stamp in found.items() if self._sent.get(name) != stamp]
        with self._explained("written"):
            for name in sorted(changed, key=lambda name: (Path(name).name == MANIFEST, name)):
                (self.remote / name).parent.mkdir(parents=True, exist_ok=True)
                (self.remote / name).write_bytes((self.local / name).read_bytes())
                self._sent[name] = found[name]
            for name in self._sent.keys() - found.keys():
                (self.remote / name).unlink(missing_ok=True)
                del self._sent[name]

    def _found(self) -> dict[str, tuple[int, int]]:
        stats = {name: (self.local / name).stat() for name in _files(epath.Path(self.local))}
        return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items() if name != "lock"}

    @contextlib.contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except ImportError as error:
            raise UserError(f"{self.remote} needs a package ({error}): ./launch.sh setup gcs") from None
        except Exception as error:  # each library below has its own
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise UserError(f"{self.remote} cannot be {what} ({reason})") from None


def _files(folder: epath.Path) -> list[str]:
    """The names of all files below a folder, as paths relative to it; none where there is no folder."""
    if not folder.exists():
        return []
    names = []
    for path in sorted(folder.iterdir()):
        names += [f"{path.name}/{name}" for name in _files(path)] if path.is_dir() else [path.name]
    return names


@contextlib.contextmanager
def local_copy(path: epath.PathLike) -> Iterator[Mirror | None]:
    """The copy of a folder on a bucket while it is in use; None for a folder that is local already.

    What goes wrong with the copy is said of the folder on the bucket.
    """
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
