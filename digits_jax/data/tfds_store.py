"""A data set on disk as an ordinary TFDS data set: array_record files with PNG images, without TensorFlow."""

import contextlib
import io
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from digits_jax.data.arrays import Arrays
from digits_jax.errors import UserError

_DECODE_BLOCK = 5000  # examples read at a time


def is_prepared(folder: Path) -> bool:
    return (folder / "dataset_info.json").exists()


def prepare(
    root: Path, arrays: Arrays, *, name: str, version: str, description: str, homepage: str, num_classes: int
) -> None:
    """Writes `arrays` as the TFDS data set `name`, into `root/name/version`."""
    import tensorflow_datasets as tfds

    # A subclass would be registered under its name, and clash with the builder that TFDS itself has for it.
    with tfds.core.registered.skip_registration():

        class Builder(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version(version)

            def _info(self) -> Any:
                return tfds.core.DatasetInfo(
                    builder=self,
                    description=description,
                    homepage=homepage,
                    features=tfds.features.FeaturesDict(
                        {
                            "image": tfds.features.Image(shape=arrays.train_images.shape[1:]),
                            "label": tfds.features.ClassLabel(num_classes=num_classes),
                        }
                    ),
                    supervised_keys=("image", "label"),
                    disable_shuffling=True,  # the files' own order, so that an index names an image
                )

            def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
                return {
                    "train": self._generate_examples(arrays.train_images, arrays.train_labels),
                    "test": self._generate_examples(arrays.test_images, arrays.test_labels),
                }

            def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, Any]]:
                # Bytes, because TFDS would encode an array with TensorFlow.
                for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                    yield index, {"image": _png(image), "label": int(label)}

    Builder.name = name
    tfds.disable_progress_bar()
    with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints a paragraph
        Builder(data_dir=root, file_format="array_record").download_and_prepare()


def _png(image: np.ndarray) -> io.BytesIO:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(buffer, format="png")
    buffer.seek(0)
    return buffer


def decode(prepared: Path) -> Arrays:
    """Reads a prepared TFDS data set."""
    sources = {split: open_source(prepared, split) for split in ("train", "test")}
    print(f"decoding {prepared} (once; about ten seconds)", file=sys.stderr)
    images, labels = {}, {}
    for split, source in sources.items():
        blocks = [
            read_examples(source, range(start, min(start + _DECODE_BLOCK, len(source))))
            for start in range(0, len(source), _DECODE_BLOCK)
        ]
        images[split], labels[split] = (np.concatenate(part) for part in zip(*blocks, strict=True))
    return Arrays(images["train"], labels["train"], images["test"], labels["test"])


def open_source(prepared: Path, split: str) -> Any:
    """The random-access source of one split, for `read_examples`.

    Raises:
      UserError: there is no prepared data set, or its files need TensorFlow.
    """
    import tensorflow_datasets as tfds

    if not is_prepared(prepared):
        raise UserError(f"{prepared} holds no prepared data set: config.dataset.feed='host' reads from one")
    builder = tfds.builder_from_directory(prepared)
    if builder.info.file_format.value != "array_record":
        raise UserError(
            f"{prepared} holds {builder.info.file_format.value} files, which need TensorFlow: prepare the data set "
            "elsewhere, with --config.dataset.data_dir=FOLDER"
        )
    return builder.as_data_source(split)


def read_examples(source: Any, indices: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images `[n, H, W, C]` and uint8 labels `[n]`."""
    examples = source.__getitems__(indices)
    labels = np.array([example["label"] for example in examples], np.uint8)
    return np.stack([example["image"] for example in examples]), labels
