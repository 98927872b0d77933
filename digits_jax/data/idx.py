"""IDX, the file format of MNIST and its relatives: found in a folder or downloaded, parsed and verified.

Format: http://yann.lecun.com/exdb/mnist: a big-endian magic number (0x803 for images, 0x801 for labels), one 32-bit
size per dimension, then one byte per value.
"""

import gzip
import hashlib
import math
import struct
import threading
import urllib.request
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError, URLError

import numpy as np

from digits_jax.data.arrays import Arrays
from digits_jax.errors import UserError

FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
_MAGIC = {0x803: "images", 0x801: "labels"}
_PROBE_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class IdxFiles:
    """Where a data set's four IDX files come from."""

    url: str  # the folder that holds the files, gzipped, ending in a slash
    num_classes: int
    # SHA-256 by name in FILES, where known. A file is compared with the first of them that applies to it.
    sha256: dict[str, str] = field(default_factory=dict)  # of the unpacked content
    gzip_sha256: dict[str, str] = field(default_factory=dict)  # of the gzipped file as it is distributed

    def read(self, *, source_dir: Path | None, download_dir: Path) -> Arrays:
        """The arrays in the files' own order, from `source_dir` where it is given, else downloaded.

        Raises:
          UserError: a file is missing, damaged or not what its name says, or there is no network.
        """
        paths = _find(source_dir) if source_dir else _download(self.url, download_dir)
        arrays = {
            name: _read_idx(path, name, sha256=self.sha256.get(name), gzip_sha256=self.gzip_sha256.get(name))
            for name, path in paths.items()
        }
        for split in ("train", "test"):
            _check_pair(arrays, paths, split, self.num_classes)
        return Arrays(**arrays)


def _find(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"config.dataset.source_dir is {str(folder)!r}: no such folder")
    paths = {}
    for name, file in FILES.items():
        candidates = [folder / file, folder / f"{file}.gz"]
        found = next((path for path in candidates if path.is_file()), None)
        if found is None:
            raise UserError(f"{file} (or {file}.gz) is missing in config.dataset.source_dir={str(folder)!r}")
        paths[name] = found
    return paths


def _read_idx(path: Path, name: str, *, sha256: str | None, gzip_sha256: str | None) -> np.ndarray:
    kind = name.split("_")[1]
    packed = _read(path)
    content = _unpack(path, packed)
    magic = int.from_bytes(content[:4], "big")
    if _MAGIC.get(magic) != kind:
        what = f"an IDX file of {_MAGIC[magic]}" if magic in _MAGIC else "neither gzip nor IDX"
        raise UserError(f"{path} is {what} (magic number {magic:#010x}): expected an IDX file of {kind}")
    header = 4 + 4 * (3 if kind == "images" else 1)
    if len(content) < header:
        raise UserError(f"{path} ends within its header ({len(content)} bytes): it is truncated")
    shape = struct.unpack(f">{header // 4 - 1}I", content[4:header])
    expected = header + math.prod(shape)
    if len(content) != expected:
        raise UserError(f"{path} holds {len(content):,} bytes unpacked: its header announces {expected:,}")
    if sha256 is not None:
        _check_hash(path, name, content, sha256, of="its unpacked content")
    elif gzip_sha256 is not None and packed is not content:
        _check_hash(path, name, packed, gzip_sha256, of="the gzipped file")
    values = np.frombuffer(content, np.uint8, offset=header).reshape(shape)
    return values[..., np.newaxis] if kind == "images" else values


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None


def _unpack(path: Path, packed: bytes) -> bytes:
    """The content of a gzipped file; that of any other as it is."""
    if packed[:2] != b"\x1f\x8b":
        return packed
    try:
        return gzip.decompress(packed)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} cannot be unpacked ({error}): it is truncated or damaged") from None


def _check_hash(path: Path, name: str, content: bytes, expected: str, *, of: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        raise UserError(
            f"{path} is not the original {FILES[name]}: SHA-256 of {of} is {found[:12]}..., expected {expected[:12]}..."
        )


def _check_pair(arrays: dict[str, np.ndarray], paths: dict[str, Path], split: str, num_classes: int) -> None:
    images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
    if len(images) != len(labels):
        raise UserError(
            f"{paths[f'{split}_images']} holds {len(images):,} images but {paths[f'{split}_labels'].name} "
            f"{len(labels):,} labels: they do not belong together"
        )
    if len(labels) == 0:
        raise UserError(f"{paths[f'{split}_images']} holds no images")
    if labels.max() >= num_classes:
        raise UserError(f"{paths[f'{split}_labels']} holds the label {labels.max()}: expected 0 to {num_classes - 1}")


def _download(url: str, folder: Path) -> dict[str, Path]:
    _probe(url)
    import tensorflow_datasets as tfds

    # Checks the SHA-256 of each file whose address is in TFDS's own table, and keeps what is already there.
    failures = (tfds.download.DownloadError, tfds.core.download.download_manager.NonMatchingChecksumError, OSError)
    try:
        manager = tfds.download.DownloadManager(download_dir=folder)
        return {name: Path(path) for name, path in manager.download(_addresses(url)).items()}
    except failures as error:
        raise UserError(f"the download from {url} failed: {' '.join(str(error).split())}") from None


def _addresses(url: str) -> dict[str, str]:
    return {name: f"{url}{file}.gz" for name, file in FILES.items()}


def _probe(url: str) -> None:
    """Raises a UserError within `_PROBE_SECONDS` where `url` cannot be reached: TFDS alone retries for minutes."""
    outcome: list[BaseException | None] = []

    def ask() -> None:
        try:
            request = urllib.request.Request(_addresses(url)["test_labels"], method="HEAD")
            urllib.request.urlopen(request, timeout=_PROBE_SECONDS).close()
            outcome.append(None)
        except URLError as error:
            outcome.append(error if isinstance(error, HTTPError) else OSError(error.reason))
        except OSError as error:
            outcome.append(error)

    # In a thread because looking up a host's name has no timeout of its own.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(_PROBE_SECONDS)
    error = outcome[0] if outcome else TimeoutError(f"no answer in {_PROBE_SECONDS} s")
    if error is not None:
        raise UserError(f"{url} cannot be reached ({error})")
