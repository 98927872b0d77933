"""Prepares a data set without training: `python -m digits_jax.data --name=mnist`."""

from absl import flags

from digits_jax import cli, data

NAME = flags.DEFINE_enum("name", "mnist", sorted(data.DATASETS), "the data set")
DATA_DIR = cli.DEFINE_path("data_dir", None, "folder of prepared data; default: $TFDS_DATA_DIR")
SOURCE_DIR = cli.DEFINE_path("source_dir", None, "folder with the original IDX files; default: download")


def main(argv: list[str]) -> None:
    arrays = data.load(NAME.value, data_dir=DATA_DIR.value, source_dir=SOURCE_DIR.value).arrays
    print(f"{NAME.value} is ready: {len(arrays.train_labels):,} training and {len(arrays.test_labels):,} test images")


if __name__ == "__main__":
    cli.run(main)
