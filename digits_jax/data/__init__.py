"""The data sets."""

from digits_jax.data.arrays import Arrays, read_cache
from digits_jax.data.datasets import DATASETS, Dataset, cache_file, data_dir, load, train_gather

load_configured = load
