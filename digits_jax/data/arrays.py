"""A data set as arrays in memory, its hash, and the file that caches it so that a start takes no decoding."""

import hashlib
import os
import sys
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Arrays(NamedTuple):
    """All examples, in the order of their source."""

    train_images: np.ndarray  # uint8 [N, H, W, C]
    train_labels: np.ndarray  # uint8 [N]
    test_images: np.ndarray  # uint8 [M, H, W, C]
    test_labels: np.ndarray  # uint8 [M]


def content_hash(arrays: Arrays) -> str:
    """SHA-256 over names, shapes and values, in hexadecimal."""
    digest = hashlib.sha256()
    for name, array in arrays._asdict().items():
        digest.update(f"{name} {array.dtype} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def same_examples(a: Arrays, b: Arrays) -> bool:
    """Whether two data sets have the same examples in each split, in whatever order."""

    def checksums(images: np.ndarray, labels: np.ndarray) -> list[int]:
        return sorted(zlib.crc32(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))

    return checksums(*a[:2]) == checksums(*b[:2]) and checksums(*a[2:]) == checksums(*b[2:])


def write_cache(path: Path, arrays: Arrays, sha256: str) -> None:
    """Writes arrays and hash as one file, which is there whole or not at all."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            np.savez(file, sha256=np.frombuffer(bytes.fromhex(sha256), np.uint8), **arrays._asdict())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        print(f"warning: the decoded images cannot be cached in {path} ({error.strerror})", file=sys.stderr)


def read_cache(path: Path) -> tuple[Arrays, str] | None:
    """The cached arrays and their hash; None where there is no cache, or, with a warning, where it is damaged."""
    if not path.exists():
        return None
    try:
        # Opened here, because np.load leaves a file that is no archive open.
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = Arrays(**{name: file[name] for name in Arrays._fields})
            expected = file["sha256"].tobytes().hex()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        expected = ""
    if expected and content_hash(arrays) == expected:
        return arrays, expected
    print(f"warning: the cache {path} is damaged; it is made again", file=sys.stderr)
    return None
