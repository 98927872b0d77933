"""The table of data sets: what each is, and where its examples come from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from digits_jax.data import optical_digits
from digits_jax.data.arrays import Arrays
from digits_jax.data.idx import IdxFiles


@dataclass(frozen=True, kw_only=True)
class DatasetSpec:
    """A data set: its metadata in TFDS, and the function that reads its original files."""

    version: str  # of the TFDS data set
    description: str
    homepage: str
    num_classes: int = 10
    read: Callable[[Path | None], Arrays]  # reads a directory of original files, or gets them by itself if it is None
    cached: bool = False  # read only once: of what never changes. It is stored as a TFDS data set and as arrays.
    writers_known: bool = False  # in the files of `qmnist.py`


DATASETS = {
    "mnist": DatasetSpec(
        version="3.0.1",
        description="The MNIST database of handwritten digits: 60,000 to train on, 10,000 to test.",
        homepage="http://yann.lecun.com/exdb/mnist/",
        read=IdxFiles(
            url="https://storage.googleapis.com/cvdf-datasets/mnist/",
            sha256={
                "train_images": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
                "train_labels": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
                "test_images": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
                "test_labels": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            },
        ).read,
        cached=True,
        writers_known=True,
    ),
    # The next two have the hashes in TFDS's own tables; they were never read from the real files.
    "fashion_mnist": DatasetSpec(
        version="3.0.1",
        description="Fashion-MNIST (Xiao, Rasul and Vollgraf 2017): articles of clothing, in MNIST's format and size.",
        homepage="https://github.com/zalandoresearch/fashion-mnist",
        read=IdxFiles(
            url="http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            gzip_sha256={
                "train_images": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "train_labels": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "test_images": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "test_labels": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            },
        ).read,
        cached=True,
    ),
    "kmnist": DatasetSpec(
        version="3.0.1",
        description="Kuzushiji-MNIST (Clanuwat et al. 2018): cursive Japanese characters, in MNIST's format and size.",
        homepage="http://codh.rois.ac.jp/kmnist/index.html.en",
        read=IdxFiles(
            url="http://codh.rois.ac.jp/kmnist/dataset/kmnist/",
            gzip_sha256={
                "train_images": "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
                "train_labels": "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
                "test_images": "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
                "test_labels": "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
            },
        ).read,
        cached=True,
    ),
    "optical_digits": DatasetSpec(
        version="1.0.0",
        description=optical_digits.__doc__,
        homepage="https://doi.org/10.24432/C50P49",
        read=optical_digits.read,
        cached=True,
    ),
}
