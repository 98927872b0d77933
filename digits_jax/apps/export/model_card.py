"""What someone should know who finds an exported model: a page of Markdown (Mitchell et al. 2019, "Model Cards")."""

import json

from digits_jax import data
from digits_jax.apps.evaluate.scores import share
from digits_jax.apps.export.formats import FORMATS, TOLERANCE, Agreement
from digits_jax.pages import markdown_table
from digits_jax.runs.console import percent
from digits_jax.runs.history import score_key
from digits_jax.runs.trained_model import TrainedModel


def build_card(model: TrainedModel, agreement: Agreement, *, format_name: str, file_name: str, compared_on: str) -> str:
    """The card of one exported file.

    Args:
      model: what was exported.
      agreement: of the file with the model.
      format_name: of the file, as in `FORMATS`.
      file_name: without its folder.
      compared_on: what images the two were compared on.
    """
    run, config = model.run, model.config
    name = config.dataset.name
    code = FORMATS[format_name].how_to_load.format(file=file_name)
    facts = (
        ("config", f"`{run['config_hash']}` (in full below), seed {config.seed}, {model.step:,} steps"),
        ("code", f"digits_jax {run['versions']['digits_jax']}, revision {run['git_revision'] or 'unknown'}"),
        ("data", f"{name}, SHA-256 `{run['dataset']['sha256']}`"),
        ("machine", f"{', '.join(run['devices'])}; {run['cores']} cores of {run['cpu'] or 'an unknown processor'}"),
        ("versions", ", ".join(f"{package} {version}" for package, version in run["versions"].items())),
    )
    description = " ".join((data.DATASETS[name].description or "").split())
    sections = [
        f"# {config.model.name} trained on {name}",
        f"`{file_name}`: which of {model.num_classes} classes a picture shows, by a model of digits_jax.",
        "## How to load it",
        f"```python\n{code}\n```",
        _contents(model, format_name),
        "## How well it does",
        _accuracy(model),
        f"This file was loaded again and compared with the model on {agreement.num_images:,} {compared_on}: the most "
        f"probable class is the same for all, probabilities differ by up to {agreement.difference:.1e} (allowed: "
        f"{TOLERANCE:.0e}).",
        "## What it is for, and what not",
        f"For pictures like the {config.dataset.train_examples:,} of {name} that it was trained on. {description}",
        "It gives one of its classes to whatever it sees, often with a high probability, also to what is none of them. "
        "It does worse on pictures that are shifted, turned, noisy or blurred; `python -m digits_jax.apps.evaluate` "
        "says by how much. It is made for research: where a wrong answer does harm, it should not have the last word.",
        "## How it was trained",
        markdown_table(("", ""), facts, text_columns=2),
        f"```json\n{json.dumps(run['config'], indent=1)}\n```",
    ]
    return "\n\n".join(section.strip() for section in sections) + "\n"


def _contents(model: TrainedModel, format_name: str) -> str:
    height, width, channels = model.image_shape
    if format_name == "npz":
        return (
            "The arrays are the parameters and batch statistics of `digits_jax/models.py` by their paths, and `run`, "
            f"JSON with the config. The model takes uint8 pixels `[N, {height}, {width}, {channels}]` and normalises "
            "them as (pixel - mean) / std, with `mean` and `std` in the config's `model`."
        )
    rows = (
        ("images", "uint8", f"[N, {height}, {width}, {channels}]", "raw pixels, as they are in the data; any N"),
        ("probabilities", "float32", f"[N, {model.num_classes}]", "of each class; a row sums to 1"),
    )
    contents = markdown_table(("", "type", "shape", ""), rows, text_columns=4)
    if format_name == "stablehlo":
        contents += (
            "\nFor CPUs, NVIDIA GPUs and TPUs, in float32 on all of them. JAX reads such files for at least six months "
            "after the version that wrote them ([compatibility]"
            "(https://docs.jax.dev/en/latest/export/export.html#compatibility-guarantees))."
        )
    return contents


def _accuracy(model: TrainedModel) -> str:
    fraction = model.metrics.get("test/accuracy")
    if fraction is None:
        return "Its run did not score this step on the test images: `python -m digits_jax.apps.evaluate` does."
    count = model.run["dataset"]["test_examples"]
    accuracy = share(round(fraction * count), count)
    text = (
        f"{percent(fraction)} of the {count:,} test images of {model.config.dataset.name} (95 % interval "
        f"{100 * accuracy.low:.2f} to {percent(accuracy.high)}), after epoch {model.metrics['epoch']}. "
    )
    if score_key(model.config) == "test/accuracy":
        return text + "The run ranks its epochs by this very figure, which is then a little too good for the best one."
    return text + "The run ranks its epochs by training images that it holds out, not by these."
