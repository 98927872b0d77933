"""Takes a model elsewhere: `python -m digits_jax.apps.export --workdir=runs/vgg/0123abcd --to=onnx`

Writes one file and a model card beside it, into `export` in the run's folder or into `--output`. The file is loaded
again and compared with the model, on the test images where they are at hand, before it is there under its name.
"""

from pathlib import Path

import numpy as np
from absl import flags
from etils import epath
from scipy import ndimage

from digits_jax import cli
from digits_jax.apps.chosen_model import WORKDIR, chosen_model
from digits_jax.apps.export.formats import FORMATS, write
from digits_jax.apps.export.model_card import build_card
from digits_jax.data import cache_file, read_cache
from digits_jax.errors import UserError
from digits_jax.runs.console import console
from digits_jax.runs.trained_model import TrainedModel
from digits_jax.storage import enable_compilation_cache, local_copy, replace_text, write_error

TO = flags.DEFINE_enum("to", None, list(FORMATS), "the format: for JAX anywhere; for other runtimes; for NumPy")
OUTPUT = flags.DEFINE_string("output", None, "folder of the file; default: export in the workdir")

_NUM_RANDOM = 1000


def main(argv: list[str]) -> None:
    format_name = cli.required("to", "onnx")
    enable_compilation_cache()
    model = chosen_model()
    images, what = _images(model)
    place = OUTPUT.value or epath.Path(WORKDIR.value) / "export"
    name = f"{model.config.model.name}-{model.run['config_hash']}-{model.step}.{format_name}"
    with local_copy(place) as mirror:
        folder = mirror.local if mirror else Path(place)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            agreement = write(model, format_name, folder / name, images)
            card = build_card(model, agreement, format_name=format_name, file_name=name, compared_on=what)
            replace_text(folder / f"{name}.md", card)
        except OSError as error:
            raise UserError(f"{write_error(folder, error)}: give another, --output=FOLDER") from None
        if mirror:
            mirror.push()
    console.print(
        f"{epath.Path(place) / name}, and its card {name}.md\nloaded again and compared on {agreement.num_images:,} "
        f"{what}: the same class for all, probabilities within {agreement.difference:.1e}"
    )


def _images(model: TrainedModel) -> tuple[np.ndarray, str]:
    """What to compare on, and what it is; nothing is downloaded for it."""
    name = model.config.dataset.name
    cached = read_cache(cache_file(name))
    if cached and cached[0].test_images.shape[1:] == model.image_shape:
        return cached[0].test_images, f"test images of {name}"
    # Blots, about as bright and as coarse as digits: sheer noise drives a model far from where it is used.
    noise = np.random.default_rng(0).standard_normal((_NUM_RANDOM, *model.image_shape), np.float32)
    blots = 600 * ndimage.gaussian_filter(noise, (0, 2, 2, 0))
    return blots.clip(0, 255).astype(np.uint8), "random images"


if __name__ == "__main__":
    cli.run(main)
