"""From a data set's name to arrays in memory: the cache, the prepared TFDS data set, the original files.

A data set that never changes is stored as an ordinary TFDS data set (`tfds_store.py`). Its decoded arrays are cached
beside it (`arrays.py`), so that later starts neither decode nor import TFDS.
"""

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from digits_jax.bounds import NAME
from digits_jax.data import tfds_store
from digits_jax.data.arrays import Arrays, as_arrays, content_hash, read_cache, same_examples, write_cache
from digits_jax.data.qmnist import Writers, hold_out, load_writers
from digits_jax.data.sources import DATASETS, DatasetSpec
from digits_jax.errors import ConfigError, UserError
from digits_jax.storage import Mirror, is_bucket

_DEFAULT_DATA_DIR = "~/tensorflow_datasets"
_CACHE_FILE = "digits_jax_arrays.npz"


@dataclass(frozen=True, kw_only=True, eq=False)  # hashed by identity: comparing the arrays would take time
class Dataset:
    """A data set in memory, split into training, validation and test examples."""

    name: str
    num_classes: int
    arrays: Arrays  # without the validation examples
    train_indices: np.ndarray  # int64 [N], of the training examples among those of the source
    validation_images: np.ndarray  # uint8 [V, H, W, C], held out of the training images
    validation_labels: np.ndarray  # as those of training, [V]
    validation_split: str  # by which rule
    validation_examples: int  # how many were asked for; a hold-out by writers has a few less
    writers: dict[str, Writers]  # of the images of "validation" and "test"; empty where nobody knows
    sha256: str  # of the whole data set
    folder: Path | None  # of the prepared TFDS data set; None if there is none

    @classmethod
    def from_arrays(
        cls,
        train_images: Any,
        train_labels: Any,
        test_images: Any,
        test_labels: Any,
        *,
        name: str = "arrays",
        num_classes: int | None = None,
        validation_examples: int = 0,
        train_examples: int | None = None,
        test_examples: int | None = None,
    ) -> "Dataset":
        """Creates a data set from arrays in memory; nothing is written to disk.

        Args:
          train_images, train_labels, test_images, test_labels, num_classes: as for `as_arrays`.
          name: what runs record; two data sets of one name are told apart by their content.
          validation_examples, train_examples, test_examples: as for `load`.

        Raises:
          ConfigError: the name is not valid, or there are fewer examples.
          UserError: an array has another type, shape or range.
        """
        if not NAME.accepts(name):
            raise ConfigError(f"the name of a data set is {name!r}: expected {NAME.expected}")
        examples = (train_images, train_labels, test_images, test_labels)
        arrays, num_classes = as_arrays(*examples, num_classes=num_classes)
        sizes = (train_examples, validation_examples, test_examples)
        return _create(name, arrays, num_classes, *sizes, sha256=content_hash(arrays))

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape of an image, (H, W, C)."""
        return self.arrays.train_images.shape[1:]

    def split(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images and labels of "train", "validation" or "test"."""
        if name == "validation":
            return self.validation_images, self.validation_labels
        return getattr(self.arrays, f"{name}_images"), getattr(self.arrays, f"{name}_labels")

    def groups(self, name: str) -> dict[str, np.ndarray]:
        """Returns which images of "validation" or "test" each group of writers wrote, bool `[N]`; empty if unknown."""
        return self.writers[name].groups() if name in self.writers else {}

    def open_train(self) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
        """Returns a function from indices to training images and labels, read from the prepared files if there are."""
        if self.folder:
            read, train_indices = tfds_store.open_split(self.folder, "train"), self.train_indices
            return lambda indices: read(train_indices[indices])
        images, labels = self.split("train")
        return lambda indices: (images[indices], labels[indices])


def load(
    name: str,
    *,
    data_dir: str | None = None,
    source_dir: str | None = None,
    train_examples: int | None = None,
    test_examples: int | None = None,
    validation_examples: int = 0,
    validation_split: str = "last",
) -> Dataset:
    """Loads a data set of `DATASETS`; prepares and caches it first if necessary, or reads it if its spec says so.

    It is looked for in the cache, in the prepared TFDS data set, in `source_dir` and on the network, in this order.

    Args:
      data_dir: directory of prepared data sets, which may be on a bucket (`gs://`); see `resolve_data_dir`.
      source_dir: directory with the original files; they must hold the same examples as a prepared data set.
      train_examples: number of training examples, the first ones; None for all.
      test_examples: the same of test examples; where there are fewer, all.
      validation_examples: number of training examples to hold out.
      validation_split: "last", the last ones, or "writers", about as many by writers who wrote none of the others.

    Raises:
      ConfigError: there is no such data set, it has fewer examples, or its writers are not known.
      UserError: the data set, or the list of its writers, is in none of these places, or is corrupted.
    """
    if name not in DATASETS:
        raise ConfigError(
            f"the data set is {name!r}: expected one of {', '.join(DATASETS)}; if it was given from Python, use "
            "load_model(...).predict"
        )
    spec, sizes = DATASETS[name], (train_examples, validation_examples, test_examples)
    source = Path(source_dir).expanduser() if source_dir else None
    by_writers = validation_split == "writers"
    if by_writers and not spec.writers_known:
        raise ConfigError(
            f"config.dataset.validation_split is 'writers': expected 'last' for {name}, whose writers are not known"
        )
    if not spec.cached:
        arrays = _read(spec, source)
        return _create(name, arrays, spec.num_classes, *sizes, sha256=content_hash(arrays))
    root = resolve_data_dir(data_dir)
    prepared = root / name / spec.version
    with _locked(root, name), _mirrored(data_dir, root, prepared):
        arrays, sha256 = _load_all(name, root, source)
        writers = load_writers(prepared, source, arrays, network=by_writers) if spec.writers_known else None
    return _create(
        name, arrays, spec.num_classes, *sizes, sha256=sha256, folder=prepared, validation_split=validation_split,
        writers=writers,
    )  # fmt: skip


def _create(
    name: str,
    arrays: Arrays,
    num_classes: int,
    train_examples: int | None,
    validation_examples: int,
    test_examples: int | None,
    *,
    sha256: str,
    folder: Path | None = None,
    validation_split: str = "last",
    writers: tuple[Writers, Writers] | None = None,
) -> Dataset:
    """Creates a data set; holds out training examples, and keeps the first of the others and of the test examples."""
    images, labels, tested = arrays.train_images, arrays.train_labels, slice(test_examples)
    if not 0 <= validation_examples < len(labels):
        raise ConfigError(
            f"config.dataset.validation_examples is {validation_examples}: expected fewer than the "
            f"{len(labels)} training images of {name}"
        )
    if validation_split == "writers" and writers:
        held_out = hold_out(writers[0], validation_examples)
    else:
        held_out = np.arange(len(labels)) >= len(labels) - validation_examples
    train_indices, validation_indices = np.flatnonzero(~held_out), np.flatnonzero(held_out)
    limit = len(train_indices) if train_examples is None else train_examples
    if not 0 < limit <= len(train_indices):
        raise ConfigError(
            f"config.dataset.train_examples is {limit}: expected at most the {len(train_indices)} training images of "
            f"{name}" + (" that are not held out" if validation_examples else "")
        )
    train_indices = train_indices[:limit]
    # All or the first images are a view: a copy of the whole data set would cost each start memory and time.
    train = slice(limit) if train_indices[-1] == limit - 1 else train_indices
    return Dataset(
        name=name,
        num_classes=num_classes,
        arrays=Arrays(images[train], labels[train], arrays.test_images[tested], arrays.test_labels[tested]),
        train_indices=train_indices,
        validation_images=images[validation_indices],
        validation_labels=labels[validation_indices],
        validation_split=validation_split,
        validation_examples=validation_examples,
        writers={"validation": writers[0].of(validation_indices), "test": writers[1].of(tested)} if writers else {},
        sha256=sha256,
        folder=folder,
    )


def _read(spec: DatasetSpec, source: Path | None) -> Arrays:
    return as_arrays(*spec.read(source), num_classes=spec.num_classes)[0]


def load_configured(dataset_config: Any, *, data_dir: str | None = None) -> Dataset:
    """Loads the data set of a config's section `dataset`, from `data_dir` if that is given."""
    return load(
        dataset_config.name,
        data_dir=data_dir or dataset_config.data_dir,
        source_dir=dataset_config.source_dir,
        train_examples=dataset_config.train_examples,
        test_examples=dataset_config.test_examples,
        validation_examples=dataset_config.validation_examples,
        validation_split=dataset_config.validation_split,
    )


def resolve_data_dir(data_dir: str | None = None) -> Path:
    """Returns the local directory of prepared data sets: `data_dir`, `$TFDS_DATA_DIR` or `~/tensorflow_datasets`.

    Data sets on a bucket have their local copies in the last.
    """
    configured = _configured_data_dir(data_dir)
    return Path(_DEFAULT_DATA_DIR if is_bucket(configured) else configured).expanduser()


def _configured_data_dir(data_dir: str | None) -> str:
    return data_dir or os.environ.get("TFDS_DATA_DIR") or _DEFAULT_DATA_DIR


def cache_file(name: str, data_dir: str | None = None) -> Path:
    """Returns the path of a data set's cached arrays, for `read_cache`; see `resolve_data_dir`."""
    return resolve_data_dir(data_dir) / name / DATASETS[name].version / _CACHE_FILE


@contextlib.contextmanager
def _mirrored(data_dir: str | None, root: Path, prepared: Path) -> Iterator[None]:
    """If data sets are on a bucket: pulls one that is missing here, and afterwards pushes one that is missing there."""
    remote = _configured_data_dir(data_dir)
    if not is_bucket(remote):
        yield
        return
    mirror = Mirror(f"{remote.rstrip('/')}/{prepared.relative_to(root).as_posix()}", prepared)
    if not tfds_store.is_prepared(prepared):
        mirror.pull()
    yield
    if not mirror.has(tfds_store.INFO_FILE):
        mirror.push()


@contextlib.contextmanager
def _locked(root: Path, name: str) -> Iterator[None]:
    """Lets processes that start together wait for the first of them to prepare the data set."""
    lock = filelock.FileLock(root / f".{name}.lock")
    with contextlib.suppress(OSError):  # nobody prepares anything in a read-only directory
        root.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _load_all(name: str, root: Path, source: Path | None) -> tuple[Arrays, str]:
    """Returns all examples and their hash."""
    spec = DATASETS[name]
    prepared = root / name / spec.version
    cached = read_cache(prepared / _CACHE_FILE)
    if cached or tfds_store.is_prepared(prepared):
        arrays = cached[0] if cached else tfds_store.decode(prepared)
        # In any order, because TFDS shuffles what it prepares itself.
        if source and not same_examples(_read(spec, source), arrays):
            raise UserError(
                f"config.dataset.source_dir={str(source)!r} holds other images than {prepared}, which was prepared "
                "before: drop the field to train on those, or give the data set a new version to prepare these"
            )
        if cached:
            return cached
    else:
        try:
            arrays = _read(spec, source)
        except UserError as error:
            if source:
                raise
            raise UserError(
                f"{name} is not prepared in {root} and {error}: prepare its IDX files, python -m digits_jax.data "
                f"--name={name} --data_dir={root} --source_dir=FOLDER, or use optical_digits, which needs no network"
            ) from None
        print(f"preparing {name} in {prepared} (once; about ten seconds)", file=sys.stderr)
        tfds_store.prepare(root, name, spec, arrays)
    sha256 = content_hash(arrays)
    write_cache(prepared / _CACHE_FILE, arrays, sha256)
    return arrays, sha256
