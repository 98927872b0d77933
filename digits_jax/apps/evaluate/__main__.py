"""Evaluates a model on test images: `python -m digits_jax.apps.evaluate --workdir=runs/vgg/0123abcd`

Computes accuracy with its interval, per-class scores, calibration, and robustness to shift, rotation, noise and blur.
Given a directory with one run per seed, evaluates their ensemble. Writes `evaluation.json`, figures and a
self-contained `evaluation.html`, which also shows the misclassified images.
"""

from absl import flags
from rich.markdown import Markdown

from digits_jax import cli, data, storage
from digits_jax.apps import evaluate as app
from digits_jax.apps.command_flags import CHECKPOINT, required_workdir
from digits_jax.apps.extras import require_extra
from digits_jax.apps.output import output_directory
from digits_jax.errors import ConfigError
from digits_jax.runs import ensemble

DATASET = flags.DEFINE_string("dataset", None, "the data set; default: the one that the model was trained on")
SOURCE_DIR = flags.DEFINE_string("source_dir", None, "directory of its original IDX files, if it is not prepared yet")
TEST_TIME_AUGMENTATION = flags.DEFINE_enum(
    "test_time_augmentation", None, ["none", "shifts"], "of the test images; default: that of the run's config"
)


def main(argv: list[str]) -> None:
    workdir = required_workdir()
    require_extra("apps", ("scipy", "markdown_it"), needed_by="evaluation")
    storage.enable_compilation_cache()
    model = ensemble.load(workdir, checkpoint=CHECKPOINT.value, test_time_augmentation=TEST_TIME_AUGMENTATION.value)
    dataset = _load_dataset(DATASET.value or model.config.dataset.name)
    trained_on = model.run["dataset"]
    if dataset.name == trained_on["name"] and dataset.sha256 != trained_on["sha256"]:
        cli.warn(f"{dataset.name} is not the version that the model was trained on: SHA-256 {dataset.sha256[:8]}...")
    evaluation = app.evaluate(model, dataset)
    with output_directory(f"evaluation/{dataset.name}") as (folder, output):
        app.write_evaluation(evaluation, model, dataset, folder)
    for table in app.build_tables(evaluation):
        cli.console.print(Markdown(table), soft_wrap=False)
    cli.console.print(f"details and the misclassified images: {output / 'evaluation.html'}")


def _load_dataset(name: str) -> data.Dataset:
    if name not in data.DATASETS:
        raise ConfigError(f"--dataset is {name!r}: expected one of {', '.join(data.DATASETS)}")
    return data.load(name, source_dir=SOURCE_DIR.value)


if __name__ == "__main__":
    cli.run(main)
