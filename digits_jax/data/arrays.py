"""A data set as arrays in memory, its hash, and the file that caches it so that later starts need not decode."""

import hashlib
import io
import operator
import sys
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from digits_jax.errors import UserError
from digits_jax.storage import is_sealed, replace_bytes, seal

MAX_SIZE, MAX_CLASSES = 1024, 1000  # of an image's height, width and channels; a trained model is read back up to these


class Arrays(NamedTuple):
    """All examples of a data set, in the order of their source."""

    train_images: np.ndarray  # uint8 [N, H, W, C]
    train_labels: np.ndarray  # uint8 [N], or int32 where there are more than 256 classes
    test_images: np.ndarray  # uint8 [M, H, W, C]
    test_labels: np.ndarray  # as those of training, [M]


def as_arrays(
    train_images: Any, train_labels: Any, test_images: Any, test_labels: Any, *, num_classes: int | None = None
) -> tuple[Arrays, int]:
    """Checks and converts the examples of a data set; returns them with the number of classes.

    Args:
      train_images, test_images: `[N, H, W]` or `[N, H, W, C]`, integers from 0 to 255 of any type.
      train_labels, test_labels: `[N]`, integers from 0 to `num_classes - 1` of any integer type.
      num_classes: None: the largest label + 1.

    Raises a UserError if an array has another type, shape or range.
    """
    train_images, test_images = _images("train_images", train_images), _images("test_images", test_images)
    if train_images.shape[1:] != test_images.shape[1:]:
        expected = f"[{len(test_images)}, {', '.join(map(str, train_images.shape[1:]))}], as train_images"
        raise UserError(f"test_images are {_describe(test_images)}: expected {expected}")
    train_labels = _labels("train_labels", train_labels, len(train_images))
    test_labels = _labels("test_labels", test_labels, len(test_images))
    largest = {"train_labels": int(train_labels.max()), "test_labels": int(test_labels.max())}
    num_classes = max(largest.values()) + 1 if num_classes is None else operator.index(num_classes)
    if not 2 <= num_classes <= MAX_CLASSES:
        raise UserError(f"num_classes is {num_classes}: expected an integer from 2 to {MAX_CLASSES}")
    for name, label in largest.items():
        if label >= num_classes:
            raise UserError(f"{name} have the label {label}: expected integers from 0 to {num_classes - 1}")
    dtype = label_dtype(num_classes)
    return Arrays(train_images, train_labels.astype(dtype), test_images, test_labels.astype(dtype)), num_classes


def label_dtype(num_classes: int) -> type:
    """Returns the type of labels in `Arrays`."""
    return np.uint8 if num_classes <= 256 else np.int32


def _images(name: str, given: Any) -> np.ndarray:
    images = np.asarray(given)
    if images.ndim not in (3, 4) or images.size == 0 or images.dtype.kind not in "uif":
        raise UserError(f"{name} are {_describe(images)}: expected uint8[N, H, W] or uint8[N, H, W, C]")
    if max(images.shape[1:]) > MAX_SIZE:
        raise UserError(f"{name} are {_describe(images)}: expected H, W and C up to {MAX_SIZE}")
    if images.dtype != np.uint8:
        low, high = images.min(), images.max()
        if not (low >= 0 and high <= 255 and (images == np.floor(images)).all()):  # nan is refused, too
            values = f"values from {low:g} to {high:g}"
            raise UserError(f"{name} are {_describe(images)} with {values}: expected integers from 0 to 255")
    return images.astype(np.uint8, copy=False).reshape(*images.shape[:3], -1)


def _labels(name: str, given: Any, count: int) -> np.ndarray:
    labels = np.asarray(given)
    if labels.shape != (count,) or labels.dtype.kind not in "ui":
        raise UserError(f"{name} are {_describe(labels)}: expected integers [{count}], one for each image")
    if labels.min() < 0:
        raise UserError(f"{name} have the label {labels.min()}: expected integers from 0")
    return labels


def _describe(array: np.ndarray) -> str:
    return f"{array.dtype}{list(array.shape)}"


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
