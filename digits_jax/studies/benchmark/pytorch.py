"""A config's network and recipe as a PyTorch user writes them; needs the extra `benchmark`."""

import functools
import itertools
import os
import time
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict

from digits_jax import augment
from digits_jax.apps.speed import Pass
from digits_jax.data import Dataset
from digits_jax.errors import ConfigError
from digits_jax.optimizer import create_schedule, steps_per_epoch
from digits_jax.storage import num_cores

MOMENTA = {"sgd": 0.0, "nesterov": 0.9}


def is_augmented(config: ConfigDict | FrozenConfigDict) -> bool:
    """Returns whether the config warps its training images."""
    return any(config.augment[name] for name in augment.RANGES)


class Trainer:
    """A network with PyTorch's own initial weights, its optimizer, and the data as uint8 tensors in memory.

    Images are in the memory format `layout`, "channels_last" or "contiguous". Of the modes, "compiled" uses
    `torch.compile`, and "graph" replays each training step as one CUDA graph. Raises a ConfigError if the recipe
    averages weights, or has another optimizer or augmentations besides affine warps.
    """

    def __init__(
        self, config: Any, dataset: Dataset, *, seed: int = 0, layout: str = "channels_last", mode: str = "eager"
    ) -> None:
        if config.optimizer.name not in MOMENTA:
            raise ConfigError(
                f"config.optimizer.name is {config.optimizer.name!r}: expected one of {', '.join(MOMENTA)}"
            )
        if config.average_decay or tuple(config.augment.names) != ("affine",):
            raise ConfigError(
                f"config.average_decay is {config.average_decay} and config.augment.names {config.augment.names!r}: "
                "expected 0.0 and ('affine',) with PyTorch"
            )
        import torch

        def tensors(images: Any, labels: Any) -> tuple[Any, Any]:
            images, labels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels).long()
            return images.to(self._device), labels.to(self._device)

        on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
        self._device = "cuda" if on_gpu else "cpu"
        if on_gpu:
            torch.set_float32_matmul_precision("high")  # TF32, JAX's default; cuDNN's, too
            torch.backends.cudnn.benchmark = True  # picks algorithms by their speed, as XLA does
        elif "OMP_NUM_THREADS" not in os.environ:  # with which threads may be pinned, this one to a single core
            torch.set_num_threads(num_cores())
        torch.manual_seed(seed)
        images = dataset.arrays.train_images
        half = config.model.dtype == "bfloat16"
        self._autocast = functools.partial(torch.autocast, self._device, torch.bfloat16, enabled=half)
        self._config, self._mode, self._graph = config, mode, None
        self._train, self._test = tensors(*dataset.split("train")), tensors(*dataset.split("test"))
        self._mean, self._std = float(images.mean()), float(images.std())
        self._memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        self._model = _create_model(config.model, dataset.image_shape[0])
        self._model = self._model.to(self._device, memory_format=self._memory_format)
        self._forward = self._model
        if mode == "compiled":
            self._forward = torch.compile(self._model)
        epoch_steps = steps_per_epoch(len(images), config.batch_size)
        steps = jnp.arange(sum(config.epochs) * epoch_steps)
        self._rates = itertools.cycle(jax.vmap(create_schedule(config, epoch_steps))(steps).tolist())
        momentum = MOMENTA[config.optimizer.name]
        self._rate = torch.zeros((), device=self._device)  # a graph reads what is in it when it is replayed
        options = {"momentum": momentum, "nesterov": momentum > 0, "fused": on_gpu}
        self._optimizer = torch.optim.SGD(self._model.parameters(), lr=self._rate if on_gpu else 0.0, **options)
        self._loss = torch.nn.CrossEntropyLoss(label_smoothing=config.loss.label_smoothing)

    def train_epoch(self) -> None:
        """Trains on each image once, in a random order."""
        import torch

        order = torch.randperm(len(self._train[1]), device=self._device)
        if self._mode == "graph" and not self._graph:
            self._capture(order[: self._config.batch_size])
        for rows in order.split(self._config.batch_size):
            if self._device == "cuda":
                self._rate.fill_(next(self._rates))
            else:
                self._optimizer.param_groups[0]["lr"] = next(self._rates)
            if self._graph and len(rows) == len(self._graph_rows):
                self._graph_rows.copy_(rows)
                self._graph.replay()
            else:
                self._train_step(rows)
        if self._device == "cuda":
            torch.cuda.synchronize()

    def _train_step(self, rows: Any) -> None:
        images, labels = self._train
        self._optimizer.zero_grad()
        batch = images[rows]
        if is_augmented(self._config):
            batch = random_warp(batch.float(), self._config.augment)
        with self._autocast():
            loss = self._loss(self._forward(self._normalize(batch)), labels[rows])
        loss.backward()
        self._optimizer.step()

    def _capture(self, rows: Any) -> None:
        """Captures a step as https://docs.pytorch.org/docs/stable/notes/cuda.html#whole-network-capture describes."""
        import torch

        self._graph_rows, stream = rows.clone(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._train_step(self._graph_rows)
        torch.cuda.current_stream().wait_stream(stream)
        self._optimizer.zero_grad()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._train_step(self._graph_rows)
        self._graph = graph

    def evaluate(self) -> tuple[float, float]:
        """Returns the cross entropy and the accuracy on the test images; the model stays in evaluation mode."""
        import torch

        self._model.eval()
        loss, correct = (torch.zeros((), dtype=torch.float64, device=self._device) for _ in range(2))
        with torch.inference_mode(), self._autocast():
            for images, labels in zip(*(part.split(self._config.eval_batch_size) for part in self._test), strict=True):
                logits = self._forward(self._normalize(images))
                loss += torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
                correct += (logits.argmax(1) == labels).sum()
        return loss.item() / len(self._test[1]), correct.item() / len(self._test[1])

    def _normalize(self, images: Any) -> Any:
        return ((images.float() - self._mean) / self._std).to(memory_format=self._memory_format)


def random_warp(images: Any, ranges: Any) -> Any:
    """Warps square images `[B, C, H, H]` at random, as `ops.warps` describes it, with rows and columns exchanged."""
    import torch

    def uniform(limit: float, *shape: int) -> Any:
        return limit * (2 * torch.rand(*shape, len(images), device=images.device) - 1)

    angle, shear = torch.deg2rad(uniform(ranges.rotation)), uniform(ranges.shear)
    zoom, zeros = 1 + uniform(ranges.zoom, 2), torch.zeros_like(angle)
    cos, sin = angle.cos(), angle.sin()
    rotation = torch.stack([cos, -sin, sin, cos], dim=-1).view(-1, 2, 2)
    shear_zoom = torch.stack([zoom[0], -shear.sin() * zoom[1], zeros, shear.cos() * zoom[1]], dim=-1).view(-1, 2, 2)
    # In units of half an image, as `affine_grid` measures.
    shifts = 2 * torch.stack([uniform(ranges.height_shift), uniform(ranges.width_shift)], dim=-1)[..., None]
    theta = torch.cat([rotation @ shear_zoom, rotation @ shifts], dim=-1)
    grid = torch.nn.functional.affine_grid(theta, list(images.shape), align_corners=False)
    options = {"mode": ranges.interpolation, "padding_mode": "border", "align_corners": False}
    return torch.nn.functional.grid_sample(images, grid, **options)


def create_pass(config: ConfigDict, dataset: Dataset, *, evaluation: bool, layout: str, mode: str) -> Pass:
    """Returns a function that trains for an epoch, or evaluates on all test images."""
    trainer = Trainer(config, dataset, layout=layout, mode=mode)
    return trainer.evaluate if evaluation else trainer.train_epoch


def train(config: FrozenConfigDict, dataset: Dataset, seed: int) -> tuple[float, float]:
    """Trains a resolved config in eager mode; returns the seconds of training and the final test accuracy."""
    trainer = Trainer(config, dataset, seed=seed)
    begin = time.perf_counter()
    for _ in range(sum(config.epochs)):
        trainer.train_epoch()
    return time.perf_counter() - begin, trainer.evaluate()[1]


def _create_model(model_config: ConfigDict, size: int) -> Any:
    """Returns the network for images of `size` x `size` x 1."""
    from torch import nn

    if model_config.name == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(size * size, 10))

    def activation(norm_layer: type[nn.Module], width: int) -> list[nn.Module]:
        norm = norm_layer(width, eps=model_config.bn_epsilon, momentum=1 - model_config.bn_momentum)
        return {"none": [nn.ReLU()], "before": [norm, nn.ReLU()], "after": [nn.ReLU(), norm]}[model_config.batch_norm]

    layers: list[nn.Module] = []
    channels = 1
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
    return nn.Sequential(*(layer for layer in layers if not (isinstance(layer, nn.Dropout) and layer.p == 0)))
