"""IDX, the file format of MNIST and its relatives: files found or downloaded, parsed and verified.

Format: http://yann.lecun.com/exdb/mnist: a big-endian magic number (0x803 for images, 0x801 for labels), one 32-bit
size per dimension, then one byte per value.
"""

import gzip
import hashlib
import math
import struct
import urllib.request
import zlib
from dataclasses import dataclass, field
from http.client import HTTPException
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
_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class IdxFiles:
    """The four IDX files of a data set: where they are downloaded from, and how they are verified."""

    url: str  # of the directory with the gzipped files, ending in a slash
    num_classes: int = 10
    # SHA-256 by the names in FILES, where known. A file is compared with the first that applies to it.
    sha256: dict[str, str] = field(default_factory=dict)  # of the unpacked content
    gzip_sha256: dict[str, str] = field(default_factory=dict)  # of the gzipped file as it is distributed

    def read(self, source_dir: Path | None) -> Arrays:
        """Reads the files from `source_dir`, or downloads them into memory; a UserError says what is wrong with one."""
        paths, parsed = {}, {}
        for name, file in FILES.items():
            paths[name], content = _read(source_dir, file) if source_dir else _download(f"{self.url}{file}.gz")
            parsed[name] = self._parse(paths[name], name, content)
        arrays = Arrays(**parsed)
        for split, images, labels in (("train", *arrays[:2]), ("test", *arrays[2:])):
            images_path, labels_path = paths[f"{split}_images"], paths[f"{split}_labels"]
            if len(images) != len(labels):
                raise UserError(
                    f"{images_path} holds {len(images):,} images but {FILES[f'{split}_labels']} {len(labels):,} "
                    "labels: they do not belong together"
                )
            if len(labels) == 0:
                raise UserError(f"{images_path} holds no images")
            if labels.max() >= self.num_classes:
                raise UserError(f"{labels_path} holds the label {labels.max()}: expected 0 to {self.num_classes - 1}")
        train, test = arrays.train_images.shape[1:3], arrays.test_images.shape[1:3]
        if train != test:
            raise UserError(
                f"{paths['test_images']} holds images of {test[0]}x{test[1]} pixels: expected {train[0]}x{train[1]} as "
                f"in {FILES['train_images']}"
            )
        return arrays

    def _parse(self, path: str, name: str, packed: bytes) -> np.ndarray:
        kind = name.split("_")[1]
        try:
            content = gzip.decompress(packed) if packed.startswith(b"\x1f\x8b") else packed
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} cannot be unpacked ({error}): it is truncated or damaged") from None
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
        wanted, hashed, of = self.sha256.get(name), content, "its unpacked content"
        if not wanted and packed is not content:
            wanted, hashed, of = self.gzip_sha256.get(name), packed, "the gzipped file"
        if wanted and (found := hashlib.sha256(hashed).hexdigest()) != wanted:
            digests = f"SHA-256 of {of} is {found[:12]}..., expected {wanted[:12]}..."
            raise UserError(f"{path} is not the original {FILES[name]}: {digests}")
        values = np.frombuffer(content, np.uint8, offset=header).reshape(shape)
        return values[..., np.newaxis] if kind == "images" else values


def _read(folder: Path, file: str) -> tuple[str, bytes]:
    """Returns the path and the content of a file, gzipped or not."""
    if not folder.is_dir():
        raise UserError(f"config.dataset.source_dir is {str(folder)!r}: no such folder")
    path = next((path for path in (folder / file, folder / f"{file}.gz") if path.is_file()), None)
    if path is None:
        raise UserError(f"{file} (or {file}.gz) is missing in config.dataset.source_dir={str(folder)!r}")
    try:
        return str(path), path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None


def _download(url: str) -> tuple[str, bytes]:
    """Returns the address and the content of a file on the network."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
            return url, response.read()
    except (HTTPError, HTTPException) as error:
        raise UserError(f"the download of {url} failed: {error}") from None
    except OSError as error:
        raise UserError(f"{url} cannot be reached ({error.reason if isinstance(error, URLError) else error})") from None
