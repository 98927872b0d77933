"""Atomic writes, and SHA-256 manifests that reveal a corrupted directory."""

import hashlib
import os
import shutil
from pathlib import Path

MANIFEST = "SHA256SUMS"


def replace_text(path: Path, text: str) -> None:
    """Writes a text file atomically, as `replace_bytes` does."""
    replace_bytes(path, text.encode())


def replace_bytes(path: Path, content: bytes | memoryview) -> None:
    """Writes a file atomically: a process that dies meanwhile leaves the old content, never part of the new.

    If it raises an OSError, the old content is unchanged, and nothing is left beside it.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # otherwise a power cut can leave an empty file under the new name
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_error(path: Path, error: OSError, *, needed: int = 0) -> str:
    """Returns "PATH cannot be written (...)" with the error's reason, the bytes needed if known, and the free space."""
    try:
        free = f"{shutil.disk_usage(path if path.is_dir() else path.parent).free / 1e6:.1f} MB are free"
    except OSError:
        free = "the folder is gone"
    space = f"{needed / 1e6:.1f} MB are needed, {free}" if needed else free
    return f"{path} cannot be written ({error.strerror or error}; {space})"


def write_manifest(folder: Path) -> None:
    """Writes `SHA256SUMS` of all files in a directory, atomically and last: without it, the directory is incomplete.

    `sha256sum --check SHA256SUMS` in the directory checks it, too. The first line is the directory's own name, so that
    a directory copied over another is detected.
    """
    sums = [f"{_sha256(folder / name)}  {name}\n" for name in _files(folder)]
    replace_text(folder / MANIFEST, "".join([f"# {folder.name}\n", *sums]))


def find_damage(folder: Path) -> str | None:
    """Returns how a directory differs from its manifest, or None if it does not."""
    try:
        title, *lines = (folder / MANIFEST).read_bytes().decode().splitlines(keepends=True)
        if title != f"# {folder.name}\n":
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
    return f"{changed} has another SHA-256 than in {MANIFEST}" if changed else None


def _files(folder: Path) -> list[str]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return sorted(path.as_posix() for path in paths if path.name != MANIFEST)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        os.fsync(file.fileno())  # the manifest must not vouch for bytes that are not on the disk yet
        return hashlib.file_digest(file, "sha256").hexdigest()
