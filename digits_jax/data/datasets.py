"""The data sets the project knows, and how one gets from its source to arrays in memory.

A data set is kept as an ordinary TFDS data set (`tfds_store.py`). Its decoded arrays are cached beside it
(`arrays.py`), so that later starts neither decode nor import TFDS.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import numpy as np
from ml_collections import ConfigDict

from digits_jax.data import idx, optical_digits, tfds_store
from digits_jax.data.arrays import Arrays, content_hash, read_cache, same_examples, write_cache
from digits_jax.errors import ConfigError, UserError
from digits_jax.storage import bucket

_DEFAULT_DATA_DIR = "~/tensorflow_datasets"
_CACHE_FILE = "digits_jax_arrays.npz"


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """One line of the table: what a data set is and where it comes from."""

    version: str  # of the TFDS data set
    description: str
    homepage: str
    num_classes: int
    read: Callable[..., Arrays]  # (source_dir=, download_dir=) to the arrays in their original order


_MNIST_FILES = idx.IdxFiles(
    url="https://storage.googleapis.com/cvdf-datasets/mnist/",
    num_classes=10,
    sha256={
        "train_images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "train_labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "test_images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "test_labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    },
)

# Their gzipped files' hashes are those of TFDS's own tables; the code that reads them was never run on the real files.
_FASHION_MNIST_FILES = idx.IdxFiles(
    url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    num_classes=10,
    gzip_sha256={
        "train_images": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "train_labels": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "test_images": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "test_labels": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    },
)
_KMNIST_FILES = idx.IdxFiles(
    url="http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
    num_classes=10,
    gzip_sha256={
        "train_images": "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
        "train_labels": "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
        "test_images": "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
        "test_labels": "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
    },
)

DATASETS = {
    "mnist": DatasetSpec(
        version="3.0.1",
        description="The MNIST database of handwritten digits: 60,000 to train on, 10,000 to test.",
        homepage="http://yann.lecun.com/exdb/mnist/",
        num_classes=10,
        read=_MNIST_FILES.read,
    ),
    "fashion_mnist": DatasetSpec(
        version="3.0.1",
        description="Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): articles of clothing, in MNIST's format and size.",
        homepage="https://github.com/zalandoresearch/fashion-mnist",
        num_classes=10,
        read=_FASHION_MNIST_FILES.read,
    ),
    "kmnist": DatasetSpec(
        version="3.0.1",
        description="Kuzushiji-MNIST (Clanuwat et al. 2018): cursive Japanese characters, in MNIST's format and size.",
        homepage="http://codh.rois.ac.jp/kmnist/index.html.en",
        num_classes=10,
        read=_KMNIST_FILES.read,
    ),
    "optical_digits": DatasetSpec(
        version="1.0.0",
        description=optical_digits.__doc__,
        homepage="https://doi.org/10.24432/C50P49",
        num_classes=10,
        read=optical_digits.read,
    ),
}


@dataclass(frozen=True, kw_only=True, eq=False)  # compared and hashed by identity: comparing arrays takes time
class Dataset:
    """A data set in memory, ready to be put on the device."""

    name: str
    num_classes: int
    arrays: Arrays  # without the images held out
    validation_images: np.ndarray  # uint8 [V, H, W, C], held out of the training images
    validation_labels: np.ndarray  # uint8 [V]
    sha256: str  # of the whole data set
    folder: Path  # of the prepared TFDS data set

    @property
    def image_shape(self) -> tuple[int, ...]:
        """(H, W, C)"""
        return self.arrays.train_images.shape[1:]

    def split(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels of "train", "validation" or "test"."""
        if name == "validation":
            return self.validation_images, self.validation_labels
        return getattr(self.arrays, f"{name}_images"), getattr(self.arrays, f"{name}_labels")


def load(dataset_config: ConfigDict) -> Dataset:
    """The data set that `config.dataset` names.

    Looked for in this order: the cache, the prepared TFDS data set, `source_dir`, the network. What is found later than
    the cache is prepared and cached on the way. Where a `source_dir` is given, it must hold the same examples.

    Raises:
      UserError: it is in none of these places, or what is there is damaged.
    """
    name = dataset_config.name
    spec = DATASETS[name]
    root = data_dir(dataset_config.data_dir)
    with _one_at_a_time(root, name), _copied_from_bucket(dataset_config.data_dir, root, Path(name, spec.version)):
        arrays, sha256 = _load_all(name, spec, root, dataset_config.source_dir)
    images, labels = arrays.train_images, arrays.train_labels
    held_out = dataset_config.validation_examples
    if held_out >= len(images):
        raise ConfigError(
            f"config.dataset.validation_examples is {held_out}: expected fewer than the {len(images)} training images "
            f"of {name}"
        )
    cut = len(images) - held_out
    limit = cut if dataset_config.train_examples is None else dataset_config.train_examples
    if limit > cut:
        raise ConfigError(
            f"config.dataset.train_examples is {limit}: expected at most the {cut} training images of {name}"
            + (" that are not held out" if held_out else "")
        )
    return Dataset(
        name=name,
        num_classes=spec.num_classes,
        arrays=arrays._replace(train_images=images[:limit], train_labels=labels[:limit]),
        validation_images=images[cut:],
        validation_labels=labels[cut:],
        sha256=sha256,
        folder=root / name / spec.version,
    )


def data_dir(configured: str | None) -> Path:
    """Of prepared data sets: as configured, else TFDS's own choice. Of one on a bucket, where its copy is."""
    place = _data_place(configured)
    return Path(_DEFAULT_DATA_DIR if bucket.is_bucket(place) else place).expanduser()


def _data_place(configured: str | None) -> str:
    return configured or os.environ.get("TFDS_DATA_DIR") or _DEFAULT_DATA_DIR


def cache_file(name: str) -> Path:
    """Where the decoded arrays of a data set are, once it was loaded from the default place; for `read_cache`."""
    return data_dir(None) / name / DATASETS[name].version / _CACHE_FILE


@contextlib.contextmanager
def _copied_from_bucket(configured: str | None, root: Path, prepared: Path) -> Iterator[None]:
    """Around loading: where the data sets are on a bucket, gets the one that is not here, or leaves it there."""
    place = _data_place(configured)
    if not bucket.is_bucket(place):
        yield
        return
    mirror = bucket.Mirror(f"{place.rstrip('/')}/{prepared.as_posix()}", root / prepared)
    if not tfds_store.is_prepared(mirror.local):
        mirror.pull()
    yield
    if not tfds_store.is_prepared(mirror.remote):
        mirror.push()


@contextlib.contextmanager
def _one_at_a_time(root: Path, name: str) -> Iterator[None]:
    """Lets processes that start together wait for the first of them to prepare the data."""
    file = root / f".{name}.lock"
    lock, is_new = filelock.FileLock(file), not root.exists()
    try:
        root.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError:
        pass  # a folder that can only be read is nothing to wait for
    try:
        yield
    finally:
        lock.release()
        if is_new and root.is_dir() and [*root.iterdir()] == [file]:  # nothing came of it
            file.unlink()
            root.rmdir()


def _load_all(name: str, spec: DatasetSpec, root: Path, source_dir: str | None) -> tuple[Arrays, str]:
    prepared = root / name / spec.version
    source = Path(source_dir).expanduser() if source_dir else None
    if cached := read_cache(prepared / _CACHE_FILE):
        _check_source(spec, source, cached[0], prepared)
        return cached
    if tfds_store.is_prepared(prepared):
        arrays = tfds_store.decode(prepared)
        _check_source(spec, source, arrays, prepared)
    else:
        try:
            arrays = spec.read(source_dir=source, download_dir=root / "downloads")
        except UserError as error:
            if source is not None:
                raise
            raise UserError(
                f"{name} is not prepared in {root} and {error}: give --config.dataset.source_dir=FOLDER with its IDX "
                "files, or --config.dataset.name=optical_digits, which needs no network"
            ) from None
        print(f"preparing {name} in {prepared} (once; about ten seconds)", file=sys.stderr)
        try:
            tfds_store.prepare(
                root,
                arrays,
                name=name,
                version=spec.version,
                description=spec.description,
                homepage=spec.homepage,
                num_classes=spec.num_classes,
            )
        except OSError as error:
            raise UserError(
                f"{name} cannot be prepared in {root} ({error.strerror or error}): give a folder that can be written, "
                "--config.dataset.data_dir=FOLDER"
            ) from None
    sha256 = content_hash(arrays)
    write_cache(prepared / _CACHE_FILE, arrays, sha256)
    return arrays, sha256


def _check_source(spec: DatasetSpec, source: Path | None, arrays: Arrays, prepared: Path) -> None:
    """Raises a UserError where a source is given that does not hold what was prepared."""
    if source is None:
        return
    given = spec.read(source_dir=source, download_dir=source)
    # Data that TFDS itself prepared are in another order.
    if not same_examples(given, arrays):
        raise UserError(
            f"config.dataset.source_dir={str(source)!r} holds other images than {prepared}, which was prepared before: "
            "drop the field to train on those, or give the data set a new version to prepare these"
        )


def train_gather(dataset: Dataset) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Reads training examples by their indices from the prepared TFDS data set, without holding all in memory.

    Returns:
      A function of indices that returns uint8 images `[n, H, W, C]` and uint8 labels `[n]`.

    Raises:
      UserError: only the cached arrays are there, or the files need TensorFlow.
    """
    source = tfds_store.open_source(dataset.folder, "train")
    return lambda indices: tfds_store.read_examples(source, indices.tolist())
