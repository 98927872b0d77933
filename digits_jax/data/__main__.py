"""Prepares a data set without training: `python -m digits_jax.data --name=mnist`."""

from absl import flags
from ml_collections import ConfigDict

from digits_jax import cli
from digits_jax.data import datasets

NAME = flags.DEFINE_enum("name", "mnist", sorted(datasets.DATASETS), "the data set")
DATA_DIR = flags.DEFINE_string("data_dir", None, "folder of prepared data; default: $TFDS_DATA_DIR")
SOURCE_DIR = flags.DEFINE_string("source_dir", None, "folder with the original IDX files; default: download")


def main(argv: list[str]) -> None:
    dataset = datasets.load(
        ConfigDict(
            {
                "name": NAME.value,
                "data_dir": DATA_DIR.value,
                "source_dir": SOURCE_DIR.value,
                "validation_examples": 0,
                "train_examples": None,
            }
        )
    )
    arrays = dataset.arrays
    print(
        f"{dataset.name} is ready: {len(arrays.train_labels):,} images to train on, {len(arrays.test_labels):,} to test"
    )


if __name__ == "__main__":
    cli.run(main)
