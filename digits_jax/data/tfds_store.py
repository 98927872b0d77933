"""Ordinary TFDS data sets on disk, written and read without TensorFlow: array_record files of PNG images."""

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from digits_jax.data.arrays import Arrays, label_dtype
from digits_jax.data.sources import DatasetSpec
from digits_jax.errors import UserError

INFO_FILE = "dataset_info.json"


def is_prepared(folder: Path) -> bool:
    """Returns True if a directory holds a prepared data set."""
    return os.path.exists(folder / INFO_FILE)  # False, too, where it cannot be read


def prepare(root: Path, name: str, spec: DatasetSpec, arrays: Arrays) -> None:
    """Writes `arrays` as the TFDS data set `name` into `root/name/version`; raises a UserError if it cannot."""
    import tensorflow_datasets as tfds

    image = tfds.features.Image(shape=arrays.train_images.shape[1:])
    label = tfds.features.ClassLabel(num_classes=spec.num_classes)

    # Unregistered, because TFDS itself has a builder named "mnist".
    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]  # TFDS is untyped
        VERSION = tfds.core.Version(spec.version)

        def _info(self) -> Any:
            return tfds.core.DatasetInfo(
                builder=self,
                description=spec.description,
                homepage=spec.homepage,
                features=tfds.features.FeaturesDict({"image": image, "label": label}),
                supervised_keys=("image", "label"),
                disable_shuffling=True,  # an index names the same image as in the original files
            )

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {"train": self._generate_examples(*arrays[:2]), "test": self._generate_examples(*arrays[2:])}

        def _generate_examples(self, images: np.ndarray, labels: np.ndarray) -> Iterator[tuple[int, Any]]:
            # As PNG files, because TFDS would encode arrays with TensorFlow.
            for index, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield index, {"image": _png(image), "label": int(label)}

    Builder.name = name
    tfds.disable_progress_bar()
    try:
        for left in (root / name).glob(f"incomplete.*_{spec.version}"):  # by an interrupted preparation
            shutil.rmtree(left)
        with contextlib.suppress(FileNotFoundError):
            (root / name / spec.version).rmdir()  # TFDS takes a folder without files, too, for a prepared data set
        with contextlib.redirect_stdout(io.StringIO()):  # TFDS prints a paragraph
            Builder(data_dir=root, file_format="array_record").download_and_prepare()
    except Exception as error:  # Riegeli does not raise OSErrors
        raise UserError(
            f"{name} cannot be prepared in {root} ({type(error).__name__}: {error}): make room there, or give another "
            "folder, --config.dataset.data_dir=FOLDER"
        ) from None


def _png(image: np.ndarray) -> io.BytesIO:
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(file, format="png")
    file.seek(0)
    return file


def decode(prepared: Path) -> Arrays:
    """Reads all examples of a prepared data set; raises a UserError as `open_split` does."""
    readers = [open_split(prepared, split) for split in ("train", "test")]
    print(f"decoding {prepared} (once; about ten seconds)", file=sys.stderr)
    return Arrays(*readers[0](None), *readers[1](None))


def open_split(prepared: Path, split: str) -> Callable[[np.ndarray | None], tuple[np.ndarray, np.ndarray]]:
    """Opens the split "train" or "test" of a prepared data set.

    Returns a function from indices, or None for all, to uint8 images `[n, H, W, C]` and labels `[n]`. Both raise a
    UserError if nothing is prepared there, or the files need TensorFlow or are corrupted.
    """
    import tensorflow_datasets as tfds

    if not is_prepared(prepared):
        raise UserError(f"{prepared} holds no prepared data set: config.execution.images_on='host' reads from one")
    with _explained(prepared, prepared):
        builder = tfds.builder_from_directory(prepared)
        files = builder.info.splits[split].filepaths
    if builder.info.file_format.value != "array_record":
        raise UserError(
            f"{prepared} holds {builder.info.file_format.value} files, which need TensorFlow: prepare the data set "
            "elsewhere, with --config.dataset.data_dir=FOLDER"
        )
    with _explained(prepared, *files):
        source, dtype = builder.as_data_source(split), label_dtype(builder.info.features["label"].num_classes)

    def read(indices: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        with _explained(prepared, *files):
            examples = source.__getitems__(range(len(source)) if indices is None else indices.tolist())
            labels: np.ndarray = np.array([example["label"] for example in examples], dtype)
            return np.stack([example["image"] for example in examples]), labels

    return read


@contextlib.contextmanager
def _explained(prepared: Path, *files: Any) -> Iterator[None]:
    """Turns any exception of the decoders (Riegeli, protobuf, PIL) into a UserError that names the files."""
    try:
        yield
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(
            f"{', '.join(map(str, files))} cannot be decoded ({reason}): it is corrupted; delete {prepared} to prepare "
            "the data set again"
        ) from None
