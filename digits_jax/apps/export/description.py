"""Text about a model, for its model card and inside exported files."""

import contextlib
import inspect
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from digits_jax.apps.evaluate.evaluation import Accuracy
from digits_jax.models import create_model
from digits_jax.runs.history import score_key
from digits_jax.runs.trained_model import TrainedModel

LIMITATIONS = """\
The model assigns one of its classes to any input, often with a high probability, even if the input belongs to none. It
is less accurate on images that are shifted, rotated, noisy or blurred; `python -m digits_jax.apps.evaluate` measures by
how much. It is for research: do not rely on it alone where an error does harm."""


def title(model: TrainedModel) -> str:
    """Returns the model's name."""
    return f"{model.config.model.name} trained on {model.config.dataset.name}"


def accuracy(model: TrainedModel) -> str:
    """Returns the accuracy on the test images, and how the checkpoint was selected."""
    fraction = model.metrics.get("test/accuracy")
    if fraction is None:
        return "The run did not evaluate this step on the test images; `python -m digits_jax.apps.evaluate` does."
    count = model.run["dataset"]["test_examples"]
    interval = Accuracy.from_counts(round(fraction * count), count).interval
    selected_by = "held-out training images"
    if score_key(model.config) == "test/accuracy":
        selected_by = "this accuracy, which is therefore optimistic for the best epoch"
    return (
        f"{fraction:.2%} (95% interval {interval}) on the {count:,} test images of {model.config.dataset.name}, after "
        f"epoch {model.metrics['epoch']}. The run ranks its epochs by {selected_by}."
    )


def metadata(model: TrainedModel) -> dict[str, str]:
    """Returns the model card in short, by name."""
    shape = ", ".join(map(str, model.image_shape))
    return {
        "name": title(model),
        "version": f"digits_jax {model.run.get('versions', {}).get('digits_jax', 'unknown')}",
        "training_run": f"{model.run.get('config_hash')}, seed {model.config.seed}, step {model.step}",
        "accuracy": accuracy(model),
        "labels": ", ".join(map(str, range(model.num_classes))),
        "images": f"uint8 [N, {shape}]: raw pixels as in {model.config.dataset.name}, not normalized",
        "probabilities": f"float32 [N, {model.num_classes}]: one per label, in their order",
        "limitations": " ".join(LIMITATIONS.split()),
    }


def architecture(model: TrainedModel) -> str:
    """Returns a table of the layers that have arrays, and the code that calls them."""
    rows = ["| layer | class | takes | returns | arrays |", "| --- | --- | --- | --- | --- |"]

    def shape_of(x: Any) -> str:
        return f"`[N, {', '.join(map(str, x.shape[1:]))}]`"

    def record(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        result, arrays = call(*args, **kwargs), []
        for layers in model.variables.values():
            for name in context.module.path:
                layers = layers.get(name, {})
            arrays += [f"{name} {list(x.shape)}" for name, x in layers.items() if hasattr(x, "shape")]
        if arrays and context.method_name == "__call__":
            name, kind = "/".join(context.module.path), type(context.module).__name__
            rows.append(f"| `{name}` | {kind} | {shape_of(args[0])} | {shape_of(result)} | {', '.join(arrays)} |")
        return result

    images = jax.ShapeDtypeStruct((1, *model.image_shape), np.uint8)
    with nn.intercept_methods(record):
        jax.eval_shape(model.function(test_time_augmentation="none"), model.variables, images)
    code = "not available"
    with contextlib.suppress(OSError, TypeError):  # of a class that was typed into a console
        code = inspect.getsource(type(create_model(model.config.model, model.num_classes)))
    table = "\n".join(rows)
    return f"""\
The layers with arrays, in the order of their calls. Images are `[N, height, width, channels]`. Arrays are named
`params/LAYER/ARRAY`, the mean and variance of a BatchNorm `batch_stats/LAYER/ARRAY`.

{table}

- Conv is a cross-correlation without padding and with stride 1, plus the bias. Its kernel is `[height, width, in,
  out]`.
- BatchNorm is `(x - mean) / sqrt(var + bn_epsilon) * scale + bias`, for each channel.
- Dense is `x @ kernel + bias`. Images are flattened row by row, with the channels of a pixel side by side.

The code calls them. Its fields are those of `model` in the config, `train` is false, and dropout then does nothing.
`normalize` is `(pixel - mean) / std`; `max_pool_2x2` is the maximum over 2x2 pixels with stride 2, without an odd last
row or column; `compute` does nothing. The softmax of the result are the probabilities.

```python
{code.strip()}
```"""
