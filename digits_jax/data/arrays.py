"""A data set as arrays in memory, its hash, and the file that caches it so that later starts need not decode."""

import hashlib
import io
import sys
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from digits_jax.storage import is_sealed, replace_bytes, seal


class Arrays(NamedTuple):
    """All examples of a data set, in the order of their source."""

    train_images: np.ndarray  # uint8 [N, H, W, C]
    train_labels: np.ndarray  # uint8 [N]
    test_images: np.ndarray  # uint8 [M, H, W, C]
    test_labels: np.ndarray  # uint8 [M]


class Examples(NamedTuple):
    """Labeled images, of JAX or NumPy arrays."""

    images: Any  # uint8 [N, H, W, C]; float32 in [0, 255] where an augmentation has changed them
    labels: Any  # int32 [N], or float32 [N, num_classes] where it has mixed images; rows sum to 1


def content_hash(arrays: Arrays) -> str:
    """Returns the SHA-256 of names, shapes and values, in hexadecimal."""
    digest = hashlib.sha256()
    for name, array in arrays._asdict().items():
        digest.update(f"{name} {array.dtype} {array.shape};".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def same_examples(a: Arrays, b: Arrays) -> bool:
    """Returns True if two data sets have the same examples in each split, in any order."""

    def checksums(images: np.ndarray, labels: np.ndarray) -> list[int]:
        return sorted(zlib.crc32(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))

    return checksums(*a[:2]) == checksums(*b[:2]) and checksums(*a[2:]) == checksums(*b[2:])


def write_cache(path: Path, arrays: Arrays, sha256: str) -> None:
    """Writes the arrays and their hash as an `.npz` file, atomically, with the SHA-256 of its bytes appended."""
    file = io.BytesIO()
    np.savez(file, sha256=np.frombuffer(bytes.fromhex(sha256), np.uint8), **arrays._asdict())
    try:
        for left in path.parent.glob(f"{path.name}.*.tmp"):  # by a process that was killed while it wrote
            left.unlink()
        replace_bytes(path, seal(file))
    except OSError as error:
        print(f"warning: the decoded images cannot be cached in {path} ({error.strerror})", file=sys.stderr)


def read_cache(path: Path) -> tuple[Arrays, str] | None:
    """Returns the cached arrays and their hash, or None if there is no cache or, with a warning, if it is corrupted.

    The checksum is compared first, because NumPy parses some corrupted files without an exception.
    """
    try:
        content = path.read_bytes()
        if not is_sealed(content):
            raise ValueError("it fails its checksum")
        with np.load(io.BytesIO(content), allow_pickle=False) as file:  # what follows the archive is ignored
            return Arrays(**{name: file[name] for name in Arrays._fields}), file["sha256"].tobytes().hex()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # NumPy and zipfile raise almost any
        reason = f"{type(error).__name__}: {error}"
        print(f"warning: {path} cannot be read ({reason}); loading the data set writes it again", file=sys.stderr)
        return None
