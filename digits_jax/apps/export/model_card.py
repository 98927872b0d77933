"""The model card of an exported file (Mitchell et al. 2019, "Model Cards for Model Reporting")."""

import json

from digits_jax import data
from digits_jax.apps.export import description
from digits_jax.apps.export.formats import FORMATS, TOLERANCE, Agreement
from digits_jax.runs.trained_model import TrainedModel


def build_model_card(
    model: TrainedModel, agreement: Agreement, *, format_name: str, file_name: str, checked_on: str
) -> str:
    """Builds the Markdown page of an exported file; `checked_on` describes the images that it was compared on."""
    format_, dataset = FORMATS[format_name], model.config.dataset
    about_data = data.DATASETS[dataset.name].description if dataset.name in data.DATASETS else None
    dtype = model.config.model.dtype
    note = f"This accuracy is of the run, which computes in {dtype}; the file was compared in float32.\n"
    shape = f"`[N, {', '.join(map(str, model.image_shape))}]`"
    architecture = f"## Architecture\n\n{description.architecture(model)}\n\n" if format_name == "npz" else ""
    return f"""# {description.title(model)}

`{file_name}` classifies images into {model.num_classes} classes.

## Usage

```python
{format_.usage.format(file=file_name)}
```

{format_.interface.format(shape=shape, num_classes=model.num_classes)}

## Accuracy

{description.accuracy(model)}

The file was reloaded and checked against the model on {agreement.num_images:,} {checked_on}: the predicted classes are
the same, and probabilities differ by at most {agreement.difference:.1e} (tolerance {TOLERANCE:.0e}).
{"" if dtype == "float32" else note}
## Intended use and limitations

For images like the {dataset.train_examples:,} of {dataset.name} that the model was trained on.
{" ".join((about_data or "").split())}

{description.LIMITATIONS}

{architecture}## Training

Step {model.step:,} of this run of digits_jax:

```json
{json.dumps(model.run, indent=1)}
```
"""
