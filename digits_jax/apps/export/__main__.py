"""Exports a model to StableHLO, ONNX or NumPy: `python -m digits_jax.apps.export --workdir=runs/vgg/0123abcd --to=onnx`

Writes one file and its model card to `--output`. The exported file is reloaded and checked against the model before it
is moved into place, on the test images if they are prepared, else on random images.
"""

import numpy as np
from absl import flags
from scipy import ndimage

from digits_jax import cli, data, load_model, storage
from digits_jax.apps.command_flags import CHECKPOINT, DATA_DIR, chosen_workdir, output_directory
from digits_jax.apps.export.formats import FORMATS, export_model
from digits_jax.apps.export.model_card import build_model_card
from digits_jax.data import read_cache
from digits_jax.runs.trained_model import TrainedModel

OUTPUT = cli.DEFINE_path("output", None, "directory to write to; default: one in the workdir or runs/shipped")
TO = flags.DEFINE_enum("to", None, list(FORMATS), "the format: for JAX, for other runtimes, for NumPy")


def main(argv: list[str]) -> None:
    format_name = cli.required("to", "onnx")
    workdir = chosen_workdir()
    storage.enable_compilation_cache()
    model = load_model(workdir, checkpoint=CHECKPOINT.value)
    images, checked_on = _images(model)
    name = f"{model.config.model.name}-{model.run['config_hash']}-{model.step}.{format_name}"
    with output_directory(OUTPUT.value or f"{workdir or 'runs/shipped'}/export") as (folder, output):
        agreement = export_model(model, format_name, folder / name, images)
        card = build_model_card(model, agreement, format_name=format_name, file_name=name, checked_on=checked_on)
        storage.replace_text(folder / f"{name}.md", card)
    cli.console.print(
        f"{output / name} and its model card {name}.md\nreloaded and checked on {agreement.num_images:,} {checked_on}: "
        f"same predicted classes, probabilities within {agreement.difference:.1e}"
    )


def _images(model: TrainedModel) -> tuple[np.ndarray, str]:
    """Returns images to check an export on, and their description, without downloading any."""
    name = model.config.dataset.name
    cached = read_cache(data.cache_file(name, DATA_DIR.value)) if name in data.DATASETS else None
    if cached and cached[0].test_images.shape[1:] == model.image_shape:
        return cached[0].test_images, f"test images of {name}"
    # Blobs about as bright and coarse as digits: white noise drives a model far from where it is used.
    noise = np.random.default_rng(0).standard_normal((1000, *model.image_shape), np.float32)
    return (600 * ndimage.gaussian_filter(noise, (0, 2, 2, 0))).clip(0, 255).astype(np.uint8), "random images"


if __name__ == "__main__":
    cli.run(main)
