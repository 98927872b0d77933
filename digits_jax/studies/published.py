"""Published accuracies of single networks on MNIST, with their protocols and the operations of their training."""

from typing import NamedTuple

from digits_jax.pages import markdown_table
from digits_jax.studies.costs import Layer, training_flops, unpadded, vgg


class Published(NamedTuple):
    """A result of others."""

    who: str
    source: str  # its address
    what: str
    accuracy: float  # on the test set
    protocol: str
    flops: float | None  # of one network's training; None: an ensemble
    short: str = ""  # the protocol in the plots


_DEOTTE: list[Layer] = [
    (26, 3, 1, 32), (24, 3, 32, 32), (12, 5, 32, 32), (10, 3, 32, 64), (8, 3, 64, 64), (4, 5, 64, 64), (1, 4, 64, 128),
    (1, 1, 128, 10),
]  # fmt: skip
_AN = [*unpadded(range(32, 177, 16)), (1, 1, 64 * 176, 10)]
# The branches after every third convolution weigh each of its outputs once per class.
_BYERLY = [
    *unpadded(range(32, 161, 16)),
    *((1, 1, side**2 * width, 10) for side, width in ((22, 64), (16, 112), (10, 160))),
]
_AN_URL = "https://arxiv.org/abs/2008.10400"

PUBLISHED = (
    Published(
        "The post", "http://rahular.com/digit-recognition-2/",
        "VGG-like network, batch normalization, dropout", 0.9943,
        "final of 16 epochs, one run (its best epoch: 99.55%)",
        training_flops(vgg(((32, 32), (64, 64)), 512), 16 * 60_000), "one run",
    ),
    Published(
        "Deotte 2018", "https://github.com/cdeotte/MNIST-CNN-99.75",
        "seven convolutions, two of them with strides, batch normalization, dropout, augmentation; "
        "trained on 80% of the training images", 0.9965,
        "mean of 1,500 final epochs, of 35 each", training_flops(_DEOTTE, 35 * 937 * 64), "1,500 final epochs",
    ),
    Published(
        "Byerly, Kalganova, Dear 2021", "https://github.com/AdamByerly/BMCNNwHFCs/tree/master/data",
        "nine 3x3 convolutions without pooling, three branches of capsules, augmentation, EMA", 0.9968,
        "mean of 96 final epochs, of 300 each", training_flops(_BYERLY, 300 * 60_000), "96 final epochs",
    ),
    Published(
        "An, Lee, Park, Yang, So 2020", _AN_URL,
        "ten 3x3 convolutions without pooling, augmentation, EMA", 0.9970,
        "mean of 30 final epochs, of 150 each", training_flops(_AN, 150 * 60_000), "30 final epochs",
    ),
    Published(
        "An et al. 2020", _AN_URL, "majority vote of three networks, kernels of 3, 5 and 7", 0.9987,
        "best epochs, best of many ensembles", None,
    ),
    Published(
        "An et al. 2020", _AN_URL, "two-layer ensemble: three majority votes of three networks", 0.9991, "the same",
        None,
    ),
)  # fmt: skip


def published_table() -> str:
    """Returns a Markdown table of all, with the estimated TFLOP of training one network."""
    rows = [
        (
            f"[{found.who}]({found.source})", found.what, found.protocol, f"{100 * found.accuracy:.2f}%",
            f"{found.flops / 1e12:,.0f}" if found.flops else "",
        )
        for found in PUBLISHED
    ]  # fmt: skip
    return markdown_table(("who", "what", "protocol", "accuracy", "TFLOP"), rows, text_columns=3)
