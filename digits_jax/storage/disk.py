"""Files that are there whole or not at all, folders whose damage is noticed, and words for a disk that refuses."""

import hashlib
import os
import shutil
from pathlib import Path

MANIFEST = "SHA256SUMS"


def replace_text(path: Path, text: str) -> None:
    """Replaces a file whole: a process that ends meanwhile leaves the old one, never a half-written one.

    Raises:
      OSError: it cannot be written; the old file is as it was, and nothing new takes room.
    """
    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave an empty file under the new name
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def refusal(path: Path, error: OSError, *, needed: int = 0) -> str:
    """Why a path cannot be written, in words: the reason, how many bytes are needed where that is known, and free."""
    reason = error.strerror or str(error)
    try:
        free = f"{shutil.disk_usage(path if path.is_dir() else path.parent).free / 1e6:.1f} MB are free"
    except OSError:
        free = "the folder is gone"
    room = f"{needed / 1e6:.1f} MB are needed, {free}" if needed else free
    return f"{path} cannot be written ({reason}; {room})"


def write_manifest(folder: Path) -> None:
    """Writes SHA256SUMS of all files in a folder, last and at once: a folder without it is not whole.

    Its format is that of `sha256sum`: `sha256sum --check SHA256SUMS` in the folder checks it too. The first line is the
    folder's own name, so that two folders cannot be taken for each other.
    """
    sums = [f"{_sha256(folder / name)}  {name}\n" for name in _files(folder)]
    replace_text(folder / MANIFEST, "".join([_title(folder), *sums]))


def damage(folder: Path) -> str | None:
    """What is wrong with a folder that `write_manifest` closed; None where it is as it was."""
    try:
        title, *lines = (folder / MANIFEST).read_bytes().decode().splitlines(keepends=True)
        if title != _title(folder):
            return f"{MANIFEST} is of another folder: {title.strip()!r}"
        recorded = {name: digest for digest, _, name in (line.rstrip("\n").partition("  ") for line in lines)}
        found = _files(folder)
        if missing := sorted(recorded.keys() - set(found)):
            return f"{missing[0]} is missing"
        if unknown := sorted(set(found) - recorded.keys()):
            return f"{unknown[0]} is not in {MANIFEST}"
        changed = next((name for name in found if _sha256(folder / name) != recorded[name]), None)
    except FileNotFoundError:
        return f"it is incomplete: {MANIFEST} is missing"
    except (OSError, ValueError) as error:
        return f"it cannot be read ({error})"
    return f"{changed} has another SHA-256 than {MANIFEST} says" if changed else None


def _title(folder: Path) -> str:
    return f"# {folder.name}\n"


def _files(folder: Path) -> list[str]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return sorted(path.as_posix() for path in paths if path.name != MANIFEST)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what is vouched for has to be on the disk
        return hashlib.file_digest(file, "sha256").hexdigest()
