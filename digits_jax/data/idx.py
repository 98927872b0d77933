"""IDX, the file format of MNIST and its relatives: files found or downloaded, parsed and verified.

Format: http://yann.lecun.com/exdb/mnist: a big-endian magic number (0x803 for images, 0x801 for labels), one 32-bit
size per dimension, then one byte per value.
"""

import gzip
import hashlib
import math
import os
import re
import struct
import urllib.request
import zlib
from collections import defaultdict
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
# In lower case, a file's name or that of a folder for it: `train-images.idx3-ubyte`, `emnist-digits-test-labels...`.
_NAME = re.compile(r"(?:(.+)[-_.])?(train|t10k|test)[-_.](images|labels)(?:[-_.]idx[13][-_.]ubyte)?(?:\.gz)?")
_MAGIC = {0x803: "images", 0x801: "labels"}
_TYPES = {8: "8-bit", 9: "signed 8-bit", 11: "16-bit", 12: "32-bit", 13: "32-bit float", 14: "64-bit float"}
_TIMEOUT_SECONDS = 10


@dataclass(frozen=True, kw_only=True)
class IdxFiles:
    """The four IDX files of a data set: where they are downloaded from, and how they are verified."""

    url: str | None = None  # of the directory with the gzipped files, ending in a slash; None: not downloaded
    num_classes: int = 10
    first_label: int = 0  # in the files, from which labels are counted
    transposed: bool = False  # whether the files have images column by column
    # SHA-256 by the names in FILES, where known. A file is compared with the first that applies to it.
    sha256: dict[str, str] = field(default_factory=dict)  # of the unpacked content
    gzip_sha256: dict[str, str] = field(default_factory=dict)  # of the gzipped file as it is distributed

    def read(self, source_dir: Path | None) -> Arrays:
        """Reads the files from `source_dir`, or downloads them into memory; a UserError says what is wrong with one."""
        if not (source_dir or self.url):
            raise UserError(
                "there is no url to download it from; expected config.dataset.source_dir, with its IDX files"
            )
        found = _find(source_dir) if source_dir else {}
        paths, parsed = {}, {}
        for name, file in FILES.items():
            paths[name], content = _read(found[name]) if source_dir else download(f"{self.url}{file}.gz")
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
            low, high = self.first_label, self.first_label + self.num_classes - 1
            if len(wrong := labels[(labels < low) | (labels > high)]):
                raise UserError(f"{labels_path} holds the label {wrong[0]}: expected {low} to {high}")
        train, test = arrays.train_images.shape[1:3], arrays.test_images.shape[1:3]
        if train != test:
            raise UserError(
                f"{paths['test_images']} holds images of {test[0]}x{test[1]} pixels: expected {train[0]}x{train[1]} as "
                f"in {FILES['train_images']}"
            )
        first = np.uint8(self.first_label)
        return arrays._replace(train_labels=arrays.train_labels - first, test_labels=arrays.test_labels - first)

    def _parse(self, path: str, name: str, packed: bytes) -> np.ndarray:
        kind = name.split("_")[1]
        try:
            content = gzip.decompress(packed) if packed.startswith(b"\x1f\x8b") else packed
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} cannot be unpacked ({error}): it is truncated or damaged") from None
        magic = int.from_bytes(content[:4], "big")
        if _MAGIC.get(magic) != kind:
            content_type = _MAGIC.get(magic, f"{_TYPES.get(magic >> 8)} values in {magic & 0xFF} dimensions")
            what = f"an IDX file of {content_type}" if magic >> 8 in _TYPES else "neither gzip nor IDX"
            expected = f"an IDX file of {kind}, 8-bit values in {3 if kind == 'images' else 1} dimensions"
            raise UserError(f"{path} is {what} (magic number {magic:#010x}): expected {expected}")
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
        if kind == "labels":
            return values
        return (values.swapaxes(1, 2) if self.transposed else values)[..., np.newaxis]


def _find(folder: Path) -> dict[str, Path]:
    """Returns the paths of the four files, gzipped or not, in a directory or up to two levels below.

    They are in one directory, or each in one of its own, and have the same prefix, so that data sets are not mixed.
    """
    if not os.path.isdir(folder):  # False, too, where it cannot be read
        raise UserError(f"config.dataset.source_dir is {str(folder)!r}: no such folder")
    files = [path for pattern in ("*", "*/*", "*/*/*") for path in sorted(folder.glob(pattern)) if os.path.isfile(path)]
    sets: dict[tuple[Path, str], dict[str, Path]] = defaultdict(dict)
    for path in files:
        if match := _NAME.fullmatch(path.name.lower()):
            prefix, split, kind = match.groups("")
            parent = path.parent.parent if _NAME.fullmatch(path.parent.name.lower()) else path.parent
            # Of two that differ in `.gz` the first, which has none.
            sets[parent, prefix].setdefault(f"{split.replace('t10k', 'test')}_{kind}", path)
    ranks = {key: (-len(paths), len(key[0].parts), key[1] > "") for key, paths in sets.items()}
    best, *others = sorted(ranks, key=ranks.__getitem__) or [(folder, "")]
    if missing := [file for name, file in FILES.items() if name not in sets[best]]:
        names = ", ".join(str(path.relative_to(folder)) for path in files[:5]) + ", ..." * (len(files) > 5)
        where = f"config.dataset.source_dir={str(folder)!r}, which holds {names or 'no files'}"
        raise UserError(f"{missing[0]} (or .gz) is missing in {where}")
    if others and ranks[others[0]] == ranks[best]:
        paths = " and ".join(str(sets[key]["train_images"]) for key in (best, others[0]))
        raise UserError(f"config.dataset.source_dir has {paths}: expected the folder of one data set")
    return sets[best]


def _read(path: Path) -> tuple[str, bytes]:
    """Returns the path and the content of a file."""
    try:
        return str(path), path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from None


def download(url: str) -> tuple[str, bytes]:
    """Returns the address and the content of a file on the network; raises a UserError if it cannot be reached."""
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response:
            return url, response.read()
    except (HTTPError, HTTPException) as error:
        raise UserError(f"the download of {url} failed: {error}") from None
    except OSError as error:
        raise UserError(f"{url} cannot be reached ({error.reason if isinstance(error, URLError) else error})") from None
