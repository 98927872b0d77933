"""A config's recipe as a PyTorch user writes it, for `speed_run.py`: network, optimizer, schedule, smoothed labels."""

import time
from collections.abc import Callable

import numpy as np
from ml_collections import FrozenConfigDict

from digits_jax import augment
from digits_jax.data import Dataset
from digits_jax.errors import ConfigError
from digits_jax.optimizer import create_schedule, steps_per_epoch
from digits_jax.studies.benchmark.contestants import torch_parts

_MOMENTA = {"sgd": 0.0, "nesterov": 0.9}


def create_training(config: FrozenConfigDict, dataset: Dataset) -> Callable[[int], tuple[float, float]]:
    """What trains a seed: PyTorch's own initial weights, eager, channels_last, each step's batch from memory.

    Args:
      config: resolved; neither augmented nor averaged.
      dataset: its data.

    Returns:
      The function of a seed to (seconds of training, test accuracy of the final weights).

    Raises:
      ConfigError: the recipe has something that is not written here.
    """
    if config.optimizer not in _MOMENTA:
        raise ConfigError(f"config.optimizer is {config.optimizer!r}: expected one of {', '.join(_MOMENTA)}")
    if config.average_decay or any(config.augment[name] for name in augment.RANGES):
        raise ConfigError("the config averages weights or augments images: expected neither beside PyTorch")
    num_steps = steps_per_epoch(len(dataset.arrays.train_labels), config.batch_size)
    schedule = create_schedule(config, num_steps)
    rates = [float(schedule(step)) for step in range(sum(config.epochs) * num_steps)]
    return lambda seed: _train(config, dataset, rates, seed)


def _train(config: FrozenConfigDict, dataset: Dataset, rates: list[float], seed: int) -> tuple[float, float]:
    import torch
    from torch import nn

    torch.manual_seed(seed)
    arrays = dataset.arrays
    model, images, labels, normalized = torch_parts(config, arrays.train_images, arrays.train_labels, True)
    momentum = _MOMENTA[config.optimizer]
    optimizer = torch.optim.SGD(model.parameters(), lr=rates[0], momentum=momentum, nesterov=momentum > 0)
    loss = nn.CrossEntropyLoss(label_smoothing=config.label_smoothing)
    steps = iter(rates)
    begin = time.perf_counter()
    for _ in range(sum(config.epochs)):
        for rows in torch.randperm(len(labels)).split(config.batch_size):
            optimizer.param_groups[0]["lr"] = next(steps)
            optimizer.zero_grad()
            loss(model(normalized(images[rows])), labels[rows]).backward()
            optimizer.step()
    seconds = time.perf_counter() - begin
    model.eval()
    planes = torch.from_numpy(arrays.test_images).permute(0, 3, 1, 2)
    with torch.inference_mode():
        predicted = [model(normalized(part)).argmax(1).numpy() for part in planes.split(config.eval_batch_size)]
    return seconds, float((np.concatenate(predicted) == arrays.test_labels).mean())
