"""Writes a run's final epoch as the shipped network: `python -m digits_jax.apps.ship --workdir=W --weights=DIR`"""

import io
import json
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict

from digits_jax import cli, data, load_model, storage
from digits_jax.apps.command_flags import DATA_DIR
from digits_jax.apps.reader.outliers import fit_detector, with_features
from digits_jax.apps.reader.strokes import letter_images
from digits_jax.runs.shipped import NAME

WEIGHTS = cli.DEFINE_path("weights", None, "directory to write to, digits_jax/weights in a clone")
# Training images that the detector is fitted to, those that it keeps, and drawings of each letter. With all 10,000 of
# the reference kept it would take 1.4 MB instead of 0.3, and reject 1.7% of other training images instead of 2.1%.
_NUM_DIGITS, _NUM_KEPT, _NUM_LETTERS = 20_000, 1_500, 20
_NOT_SHIPPED = ("code", "registered_by", "resumed_on")  # of later code, the tests check the predictions


def main(argv: list[str]) -> None:
    workdir, weights = cli.required("workdir", "runs/fast/0123abcd"), cli.required("weights", "digits_jax/weights")
    model = load_model(workdir, checkpoint="latest")
    images = data.load_configured(model.config.dataset, data_dir=DATA_DIR.value).split("train")[0]
    forward = with_features(model)
    digits, letters = forward(images[:_NUM_DIGITS])[1], forward(letter_images(_NUM_LETTERS))[1]
    detector = fit_detector(digits, letters, num_kept=_NUM_KEPT)._asdict()
    outliers = {name: array.astype(np.float16) for name, array in detector.items()} | {"limits": detector["limits"]}
    archive = io.BytesIO()
    # Dated 1980, whenever it is written: the same arrays are the same file.
    np.savez(archive, **flatten_dict({**model.variables, "outliers": outliers}, sep="/"))
    run = {key: value for key, value in model.run.items() if key not in _NOT_SHIPPED}
    metrics = {key: value for key, value in model.metrics.items() if key != "train/seconds"}
    about = {"run": run, "step": model.step, "metrics": metrics}
    folder = Path(weights)
    folder.mkdir(parents=True, exist_ok=True)
    storage.replace_bytes(folder / f"{NAME}.npz", archive.getbuffer())
    storage.replace_text(folder / f"{NAME}.json", json.dumps(about, indent=1) + "\n")
    storage.write_manifest(folder)  # also of the model card, which is written by hand
    cli.console.print(f"{NAME} with {model.metrics['test/accuracy']:.2%} test accuracy is in {folder}")


if __name__ == "__main__":
    cli.run(main)
