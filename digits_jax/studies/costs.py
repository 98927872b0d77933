"""What the layers of a network cost: operations of training, and parameters."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

# Side of the output, side of the kernel, channels of the input and of the output; a dense layer has sides of 1.
Layer = tuple[int, int, int, int]


def training_flops(layers: Iterable[Layer], images: float) -> float:
    """Estimates the floating-point operations of training on a number of images.

    Each multiply-add of a forward pass counts six: two operations, once forward and twice backward. Normalization,
    activations, the optimizer and augmentation are left out.
    """
    return 6 * images * sum(side**2 * kernel**2 * inputs * outputs for side, kernel, inputs, outputs in layers)


def num_parameters(layers: Iterable[Layer], *, batch_norm: bool) -> int:
    """Counts the kernels and biases, with two more numbers per channel where batch normalization is after each layer.

    The last layer has none.
    """
    layers = list(layers)
    dense = sum((kernel**2 * inputs + 1) * outputs for _, kernel, inputs, outputs in layers)
    return dense + 2 * batch_norm * sum(outputs for *_, outputs in layers[:-1])


def unpadded(widths: Sequence[int], *, side: int = 28, channels: int = 1) -> Iterator[Layer]:
    """Yields the layers of 3x3 convolutions without padding or pooling."""
    for width in widths:
        side -= 2
        yield side, 3, channels, width
        channels = width


def vgg(widths: Sequence[Sequence[int]], hidden_width: int, *, side: int = 28) -> Iterator[Layer]:
    """Yields the layers of `models.VGG` for gray images and ten classes."""
    channels = 1
    for block in widths:
        yield from unpadded(block, side=side, channels=channels)
        side, channels = (side - 2 * len(block)) // 2, block[-1]
    yield 1, 1, side**2 * channels, hidden_width
    yield 1, 1, hidden_width, 10


def layers_of(model: Mapping[str, Any]) -> list[Layer]:
    """Returns the layers of a recorded `config.model`, `linear` or `vgg`, for MNIST's images."""
    return [(1, 1, 28**2, 10)] if model["name"] == "linear" else [*vgg(model["widths"], model["hidden_width"])]
