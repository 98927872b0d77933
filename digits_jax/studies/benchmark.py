"""How fast is training, beside PyTorch on the same machine? `python -m digits_jax.studies.benchmark`

Both train the same network on the same random pixels at the same batch size with the same number of threads, in
alternation, so that a machine whose speed drifts slows both. PyTorch runs in its four usual ways (contiguous or
channels_last memory, eager or `torch.compile`), and the fastest counts; it does not augment. Needs the extra
`benchmark`.
"""

import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from digits_jax import augment, command_line, input_pipeline
from digits_jax.arrays import Arrays
from digits_jax.config import resolve, validate
from digits_jax.datasets import Dataset
from digits_jax.errors import UserError
from digits_jax.experiment import build
from digits_jax.metrics import Metrics

CONFIG = config_flags.DEFINE_config_file(
    "config", str(Path(__file__).parents[2] / "configs" / "vgg.py"), "the experiment to time"
)
STEPS = flags.DEFINE_integer("steps", 60, "training steps in each measurement", lower_bound=1)
ROUNDS = flags.DEFINE_integer("rounds", 5, "measurements of each", lower_bound=1)
COMPILE = flags.DEFINE_bool("torch_compile", True, "time torch.compile too, which takes a minute to start")

_EPOCH_EXAMPLES = 60_000
# Takes one pass over the images and returns when it is done.
TakeSteps = Callable[[], None]


def digits_jax_steps(config: ConfigDict, arrays: Arrays) -> TakeSteps:
    """Training steps of this project, as a run takes them: from uint8 images on the device to the updated state."""
    dataset = Dataset(
        name="random",
        num_classes=10,
        arrays=arrays,
        validation_images=arrays.test_images[:0],
        validation_labels=arrays.test_labels[:0],
        sha256="",
        folder=Path(),
    )
    experiment = build(resolve(config, dataset), dataset)
    batches = input_pipeline.epoch_batches(
        experiment.keys.order, 0, num_examples=len(arrays.train_labels), batch_size=config.batch_size
    )
    state = experiment.initial_state

    def take_steps() -> None:
        nonlocal state
        metrics = Metrics.zero()
        for call in experiment.feed.calls(batches, first_step=0):
            state, metrics = experiment.train_steps(state, metrics, *call)
        jax.block_until_ready((state, metrics))

    return take_steps


def torch_steps(config: ConfigDict, arrays: Arrays, *, channels_last: bool, compiled: bool) -> TakeSteps:
    """The same steps as a PyTorch user writes them."""
    import torch
    from torch import nn

    model_config = config.model
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    norm = model_config.batch_norm

    def activation(norm_layer: type[nn.Module], width: int) -> list[nn.Module]:
        layer = [norm_layer(width, eps=model_config.bn_epsilon, momentum=1 - model_config.bn_momentum)]
        return [*(layer if norm == "before" else []), nn.ReLU(), *(layer if norm == "after" else [])]

    layers: list[nn.Module] = []
    channels, size = 1, arrays.train_images.shape[1]
    for widths, rate in zip(model_config.widths, model_config.block_dropout, strict=True):
        for width in widths:
            layers += [nn.Conv2d(channels, width, 3), *activation(nn.BatchNorm2d, width)]
            channels, size = width, size - 2
        layers += [nn.MaxPool2d(2), nn.Dropout(rate)]
        size //= 2
    hidden = model_config.hidden_width
    layers += [nn.Flatten(), nn.Linear(channels * size * size, hidden), *activation(nn.BatchNorm1d, hidden)]
    layers += [nn.Dropout(model_config.hidden_dropout), nn.Linear(hidden, 10)]
    # A dropout of rate 0 still draws its mask in PyTorch.
    layers = [layer for layer in layers if not (isinstance(layer, nn.Dropout) and layer.p == 0)]

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    images = torch.from_numpy(arrays.train_images).permute(0, 3, 1, 2).contiguous()
    labels = torch.from_numpy(arrays.train_labels).long()
    mean, std = float(arrays.train_images.mean()), float(arrays.train_images.std())
    model = nn.Sequential(*layers).to(memory_format=memory_format)
    optimizer = torch.optim.SGD(model.parameters(), lr=config.learning_rates[0])
    forward = torch.compile(model) if compiled else model
    order = torch.randperm(len(labels))

    def take_steps() -> None:
        for rows in order.split(config.batch_size):
            batch = ((images[rows].float() - mean) / std).to(memory_format=memory_format)
            optimizer.zero_grad()
            nn.functional.cross_entropy(forward(batch), labels[rows]).backward()
            optimizer.step()

    return take_steps


def compare(contestants: dict[str, TakeSteps], *, steps: int, rounds: int) -> dict[str, list[float]]:
    """Seconds per step of each, measured in turn, `rounds` times, after one measurement that is thrown away."""
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_number in range(rounds + 1):
        for name, take_steps in contestants.items():
            begin = time.perf_counter()
            take_steps()
            if round_number:
                seconds[name].append((time.perf_counter() - begin) / steps)
    return seconds


def main(argv: list[str]) -> None:
    config = CONFIG.value
    validate(config)
    if config.model.name != "vgg":
        raise UserError(f"config.model.name is {config.model.name!r}: the PyTorch side knows 'vgg' only")
    try:
        import torch
    except ImportError:
        raise UserError("PyTorch is not installed: ./launch.sh setup benchmark") from None
    count = STEPS.value * config.batch_size
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (count, 28, 28, 1), np.uint8)
    labels = random.integers(0, 10, count).astype(np.uint8)
    arrays = Arrays(images, labels, images[:1], labels[:1])

    contestants = {"digits_jax": digits_jax_steps(config, arrays)}
    if any(config.augment[name] for name in augment.RANGES):
        plain = ConfigDict(config.to_dict())
        plain.augment.update(dict.fromkeys(augment.RANGES, 0.0))
        contestants["digits_jax, not augmented"] = digits_jax_steps(plain, arrays)
    for compiled in (False, True) if COMPILE.value else (False,):
        for channels_last in (False, True):
            layout = "channels_last" if channels_last else "contiguous"
            name = f"torch {'compiled' if compiled else 'eager'} {layout}"
            contestants[name] = torch_steps(config, arrays, channels_last=channels_last, compiled=compiled)
    seconds = compare(contestants, steps=STEPS.value, rounds=ROUNDS.value)

    fastest = min(
        (name for name in seconds if name.startswith("torch")), key=lambda name: statistics.median(seconds[name])
    )
    cores = len(os.sched_getaffinity(0))
    print(f"batch {config.batch_size}, {cores} cores, jax {jax.__version__}, torch {torch.__version__}")
    print(f"{'':30}{'ms/step':>9}{'images/s':>10}{'s/epoch':>9}   digits_jax's time / this one's, by round")
    for name, values in seconds.items():
        median = statistics.median(values)
        ratios = sorted(ours / theirs for ours, theirs in zip(seconds["digits_jax"], values, strict=True))
        print(
            f"{name:30}{median * 1e3:9.1f}{config.batch_size / median:10,.0f}"
            f"{median * _EPOCH_EXAMPLES / config.batch_size:9.1f}   "
            f"median {statistics.median(ratios):.2f}, from {ratios[0]:.2f} to {ratios[-1]:.2f}"
        )
    print(f"fastest PyTorch: {fastest}")


if __name__ == "__main__":
    command_line.run(main)
