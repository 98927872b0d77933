"""Evaluates a model on test images: `python -m digits_jax.apps.evaluate --workdir=runs/vgg/0123abcd`

Computes accuracy with its interval, per-class scores, calibration, and robustness to shift, rotation, noise and blur.
Given a directory with one run per seed, evaluates their ensemble. Writes `evaluation.json`, figures and a
self-contained `evaluation.html`, which also shows the misclassified images.
"""

from absl import flags
from ml_collections import ConfigDict
from rich.markdown import Markdown

from digits_jax import cli
from digits_jax.apps import evaluate as app
from digits_jax.apps.command_flags import CHECKPOINT, output_directory, required_workdir
from digits_jax.apps.extras import require_extra
from digits_jax.data import datasets
from digits_jax.errors import ConfigError
from digits_jax.ops import compilation
from digits_jax.runs import ensemble
from digits_jax.runs.console import console, warn

DATASET = flags.DEFINE_string("dataset", None, "the data set; default: the one that the model was trained on")
SOURCE_DIR = flags.DEFINE_string("source_dir", None, "directory of its original IDX files, if it is not prepared yet")
TEST_TIME_AUGMENTATION = flags.DEFINE_enum(
    "test_time_augmentation", None, ["none", "shifts"], "of the test images; default: that of the run's config"
)


def main(argv: list[str]) -> None:
    workdir = required_workdir()
    require_extra("apps", ("scipy", "markdown_it"), needed_by="evaluation")
    compilation.enable_cache()
    views = "one" if TEST_TIME_AUGMENTATION.value == "none" else TEST_TIME_AUGMENTATION.value
    model = ensemble.load(workdir, checkpoint=CHECKPOINT.value, views=views)
    dataset = _load_dataset(DATASET.value or model.config.dataset.name)
    trained_on = model.run["dataset"]
    if dataset.name == trained_on["name"] and dataset.sha256 != trained_on["sha256"]:
        warn(f"{dataset.name} is not the version that the model was trained on: SHA-256 {dataset.sha256[:8]}...")
    evaluation = app.evaluate(model, dataset)
    with output_directory(f"evaluation/{dataset.name}") as (folder, output):
        app.write_evaluation(evaluation, model, dataset, folder)
    for table in app.build_tables(evaluation):
        console.print(Markdown(table), soft_wrap=False)
    console.print(f"details and the misclassified images: {output / 'evaluation.html'}")


def _load_dataset(name: str) -> datasets.Dataset:
    if name not in datasets.DATASETS:
        raise ConfigError(f"--dataset is {name!r}: expected one of {', '.join(datasets.DATASETS)}")
    fields = {"data_dir": None, "source_dir": SOURCE_DIR.value, "train_examples": None, "validation_examples": 0}
    return datasets.load(ConfigDict({"name": name, **fields}))


if __name__ == "__main__":
    cli.run(main)
