"""Who wrote each image of MNIST, and a hold-out by writers.

QMNIST (Yadav and Bottou 2019, https://github.com/facebookresearch/qmnist) traced MNIST's images back to NIST's forms.
Row i of its training labels describes MNIST's training image i, and the first 10,000 rows of its test labels MNIST's
test images. Half of the writers were employees of the Census Bureau, the others high-school students, whose digits are
harder to read. No writer of test images wrote training images.
"""

import gzip
import hashlib
import struct
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from digits_jax.data.arrays import Arrays
from digits_jax.data.idx import download
from digits_jax.errors import UserError
from digits_jax.storage import replace_bytes

URL = "https://raw.githubusercontent.com/facebookresearch/qmnist/master/"
FILES = {"train": "qmnist-train-labels-idx2-int.gz", "test": "qmnist-test-labels-idx2-int.gz"}
SHA256 = {  # of the gzipped files
    "train": "2c05dc77f6b916b38e455e97ab129a42a444f3dbef09b278a366f82904e0dd9f",
    "test": "9fbcbe594c3766fdf4f0b15c5165dc0d1e57ac604e01422608bb72c906030d06",
}
GROUPS = {"employees": 0, "students": 4}  # the series of NIST's Special Database 19 by who wrote them
_MAGIC, _COLUMNS = 0x0C02, 8  # 32-bit integers in two dimensions


class Writers(NamedTuple):
    """The writers of N images."""

    series: np.ndarray  # int32 [N], the values of `GROUPS`
    writer: np.ndarray  # int32 [N], a number for each person

    def of(self, indices: np.ndarray | slice) -> "Writers":
        """Returns the writers of some of the images."""
        return Writers(self.series[indices], self.writer[indices])

    def groups(self) -> dict[str, np.ndarray]:
        """Returns, for each group that wrote any, which images its writers wrote, bool `[N]`."""
        return {name: self.series == series for name, series in GROUPS.items() if (self.series == series).any()}


def load_writers(
    prepared: Path, source: Path | None, arrays: Arrays, *, network: bool
) -> tuple[Writers, Writers] | None:
    """Returns the writers of training and test images, from the prepared directory, `source`, or else the network.

    Files are copied to the prepared directory. Returns None if they are in neither directory, unless `network`. Raises
    a UserError if one cannot be downloaded, is not the original, or describes images in another order.
    """
    found = []
    for split, name in FILES.items():
        kept = prepared / name
        path = kept if kept.is_file() else _find(source, name) if source else None
        if not path and not network:
            return None
        where, content = (str(path), path.read_bytes()) if path else download(URL + name)
        labels, writers = _parse(where, content, split)
        expected = getattr(arrays, f"{split}_labels")
        if not np.array_equal(labels[: len(expected)], expected):
            raise UserError(
                f"{where} describes other images than {prepared}, which were prepared in another order: prepare MNIST "
                "in another directory from its IDX files, python -m digits_jax.data --name=mnist --data_dir=DIR"
            )
        if path != kept:
            _keep(kept, content)
        found.append(writers.of(np.arange(len(expected))))
    return found[0], found[1]


def _find(source: Path, name: str) -> Path | None:
    """Returns the path of a file in a directory or up to two levels below, as deep as IDX files may be."""
    paths = (path for pattern in ("", "*/", "*/*/") for path in sorted(source.glob(pattern + name)))
    return next((path for path in paths if path.is_file()), None)


def _parse(where: str, content: bytes, split: str) -> tuple[np.ndarray, Writers]:
    """Returns the classes and the writers of the images that a file describes."""
    if (found := hashlib.sha256(content).hexdigest()) != SHA256[split]:
        digests = f"SHA-256 is {found[:12]}..., expected {SHA256[split][:12]}..."
        raise UserError(f"{where} is not the original {FILES[split]}: {digests}")
    unpacked = gzip.decompress(content)
    magic, rows, columns = struct.unpack(">3I", unpacked[:12])
    assert (magic, columns) == (_MAGIC, _COLUMNS)  # the hash is right
    table = np.frombuffer(unpacked, ">i4", offset=12).reshape(rows, columns).astype(np.int32)
    return table[:, 0], Writers(series=table[:, 1], writer=table[:, 2])


def _keep(path: Path, content: bytes) -> None:
    try:
        replace_bytes(path, content)
    except OSError as error:
        print(f"warning: who wrote MNIST's images cannot be kept in {path} ({error.strerror})", file=sys.stderr)


def hold_out(writers: Writers, num_examples: int) -> np.ndarray:
    """Returns which images to hold out, bool `[N]`: all images of some writers, about half of them students'.

    Writers are taken in the order of the SHA-256 of their number, as long as all images of the next one fit into the
    half of `num_examples` that its group has. The rule depends on nothing else, so that the hold-out is the same
    everywhere. 5,000 gives 4,973 images of 46 writers.
    """
    held_out = np.zeros(len(writers.writer), bool)
    for of_group in writers.groups().values():
        numbers, counts = np.unique(writers.writer[of_group], return_counts=True)
        taken = 0
        for number, count in sorted(zip(numbers, counts, strict=True), key=lambda pair: _order(pair[0])):
            if taken + count <= num_examples // 2:
                taken += count
                held_out |= of_group & (writers.writer == number)
    return held_out


def _order(number: int) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest()
