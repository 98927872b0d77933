"""Atomic writes, and SHA-256 manifests that reveal a corrupted or foreign directory."""

import hashlib
import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from digits_jax.errors import UserError
from digits_jax.storage.json_file import read_text

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


def seal(file: io.BytesIO) -> memoryview:
    """Appends to a file in memory the SHA-256 of its content, and returns all of it; see `is_sealed`."""
    checksum = hashlib.sha256(file.getbuffer()).digest()
    file.seek(0, io.SEEK_END)
    file.write(checksum)
    return file.getbuffer()


def is_sealed(content: bytes) -> bool:
    """Returns whether content ends in the SHA-256 of what is before it. Readers of `.npz` files ignore what follows."""
    size = hashlib.sha256().digest_size
    return hashlib.sha256(memoryview(content)[:-size]).digest() == content[-size:]


def write_error(path: Path, error: OSError, *, needed: int = 0) -> str:
    """Returns "PATH cannot be written (...)" with the error's reason, the bytes needed if known, and the free space."""
    try:
        free = f"{shutil.disk_usage(path if path.is_dir() else path.parent).free / 1e6:.1f} MB are free"
    except OSError:
        free = "the folder is gone"
    space = f"{needed / 1e6:.1f} MB are needed, {free}" if needed else free
    return f"{path} cannot be written ({error.strerror or error}; {space})"


def write_manifest(folder: Path, facts: Mapping[str, str] | None = None) -> None:
    """Writes `SHA256SUMS` of all files in a directory, atomically and last: without it, the directory is incomplete.

    `sha256sum --check SHA256SUMS` in the directory checks it, too. Above the checksums, as comments, are the name of
    the directory and the given facts, by which a directory that was copied from elsewhere is detected.
    """
    lines = [f"# {folder.name}\n", *(f"# {name}: {value}\n" for name, value in (facts or {}).items())]
    sums = [f"{_sha256(folder / name, sync=True)}  {name}\n" for name in _files(folder)]
    replace_text(folder / MANIFEST, "".join(lines + sums))


def read_facts(folder: Path) -> dict[str, str]:
    """Returns the facts in the manifest of a directory; raises as `read_text`."""
    return _facts(_lines(folder))


def find_damage(folder: Path, facts: Mapping[str, str] | None = None) -> str | None:
    """Returns what is wrong with a directory, such as "is corrupted (...)", or None if it is as it was written.

    It is foreign if its manifest has other values for the given facts. Those that it lacks were not recorded by the
    version that wrote it.
    """
    try:
        title, *lines = _lines(folder)
        if title != f"# {folder.name}\n":
            return f"is corrupted ({MANIFEST} is of another folder: {title.strip()!r})"
        recorded = {name: digest for digest, _, name in (x.rstrip("\n").partition("  ") for x in lines if x[0] != "#")}
        found = _files(folder)
        if missing := sorted(recorded.keys() - set(found)):
            return f"is corrupted ({missing[0]} is missing)"
        if unknown := sorted(set(found) - recorded.keys()):
            return f"is corrupted ({unknown[0]} is not in {MANIFEST})"
        if changed := next((name for name in found if _sha256(folder / name) != recorded[name]), None):
            return f"is corrupted ({changed} has another SHA-256 than in {MANIFEST})"
    except FileNotFoundError:
        return f"is incomplete ({MANIFEST} is missing: the process ended while it was saved)"
    except (OSError, ValueError, UserError) as error:
        return f"is corrupted (it cannot be read: {error})"
    theirs = _facts(lines)
    for name, ours in (facts or {}).items():
        if theirs.get(name, ours) != ours:
            return f"is of another run ({name} {theirs[name]}: expected {ours})"
    return None


def _lines(folder: Path) -> list[str]:
    return read_text(folder / MANIFEST).splitlines(keepends=True)


def _facts(lines: list[str]) -> dict[str, str]:
    pairs = (line[2:].split(": ", 1) for line in lines if line.startswith("# ") and ": " in line)
    return {name: value.rstrip("\n") for name, value in pairs}


def _files(folder: Path) -> list[str]:
    paths = (path.relative_to(folder) for path in folder.rglob("*") if not path.is_dir())
    return sorted(path.as_posix() for path in paths if path.name != MANIFEST)


def _sha256(path: Path, *, sync: bool = False) -> str:
    with path.open("rb") as file:
        if sync:
            os.fsync(file.fileno())  # the manifest must not vouch for bytes that are not on the disk yet
        return hashlib.file_digest(file, "sha256").hexdigest()
