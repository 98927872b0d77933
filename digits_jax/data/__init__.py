"""Data sets as NumPy arrays: `data.load("mnist", validation_examples=10_000).split("train")`."""

from digits_jax.data.arrays import MAX_CLASSES, MAX_SIZE, Arrays, Examples, content_hash, read_cache
from digits_jax.data.datasets import Dataset, cache_file, load, load_configured, resolve_data_dir
from digits_jax.data.qmnist import GROUPS
from digits_jax.data.sources import DATASETS, DatasetSpec
from digits_jax.data.tfds_store import is_prepared

__all__ = [
    "DATASETS", "GROUPS", "MAX_CLASSES", "MAX_SIZE", "Arrays", "Dataset", "DatasetSpec", "Examples", "cache_file",
    "content_hash", "is_prepared", "load", "load_configured", "read_cache", "resolve_data_dir",
]  # fmt: skip
