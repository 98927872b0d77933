"""The model card of an exported file (Mitchell et al. 2019, "Model Cards for Model Reporting")."""

import json

from digits_jax import data
from digits_jax.apps.evaluate.evaluation import Accuracy
from digits_jax.apps.export.formats import FORMATS, TOLERANCE, Agreement
from digits_jax.runs.history import score_key
from digits_jax.runs.trained_model import TrainedModel


def build_model_card(
    model: TrainedModel, agreement: Agreement, *, format_name: str, file_name: str, checked_on: str
) -> str:
    """Builds the Markdown page of an exported file; `checked_on` describes the images that it was compared on."""
    format_, dataset = FORMATS[format_name], model.config.dataset
    description = data.DATASETS[dataset.name].description if dataset.name in data.DATASETS else None
    dtype = model.config.model.dtype
    note = f"This accuracy is of the run, which computes in {dtype}; the file was compared in float32.\n"
    shape = f"`[N, {', '.join(map(str, model.image_shape))}]`"
    return f"""# {model.config.model.name} trained on {dataset.name}

`{file_name}` classifies images into {model.num_classes} classes.

## Usage

```python
{format_.usage.format(file=file_name)}
```

{format_.interface.format(shape=shape, num_classes=model.num_classes)}

## Accuracy

{_accuracy(model)}

The file was reloaded and checked against the model on {agreement.num_images:,} {checked_on}: the predicted classes are
the same, and probabilities differ by at most {agreement.difference:.1e} (tolerance {TOLERANCE:.0e}).
{"" if dtype == "float32" else note}
## Intended use and limitations

For images like the {dataset.train_examples:,} of {dataset.name} that the model was trained on.
{" ".join((description or "").split())}

The model assigns one of its classes to any input, often with a high probability, even if the input belongs to none. It
is less accurate on images that are shifted, rotated, noisy or blurred; `python -m digits_jax.apps.evaluate` measures by
how much. It is for research: do not rely on it alone where an error does harm.

## Training

Step {model.step:,} of this run of digits_jax:

```json
{json.dumps(model.run, indent=1)}
```
"""


def _accuracy(model: TrainedModel) -> str:
    fraction = model.metrics.get("test/accuracy")
    if fraction is None:
        return "The run did not evaluate this step on the test images; `python -m digits_jax.apps.evaluate` does."
    count = model.run["dataset"]["test_examples"]
    accuracy = Accuracy.from_counts(round(fraction * count), count)
    selected_by = "held-out training images"
    if score_key(model.config) == "test/accuracy":
        selected_by = "this accuracy, which is therefore optimistic for the best epoch"
    return (
        f"{fraction:.2%} (95% interval {accuracy.interval}) on the {count:,} test images of "
        f"{model.config.dataset.name}, after epoch {model.metrics['epoch']}. The run ranks its epochs by {selected_by}."
    )
