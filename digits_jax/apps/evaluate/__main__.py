"""Evaluates a model on test images: `python -m digits_jax.apps.evaluate --workdir=runs/vgg/0123abcd`

Given a directory with one run per seed, evaluates their ensemble. Writes `evaluation.json`, figures and a
self-contained `evaluation.html`, which also shows the misclassified images.
"""

from absl import flags
from rich.markdown import Markdown

from digits_jax import cli, data, storage
from digits_jax.apps.command_flags import CHECKPOINT, DATA_DIR, chosen_workdir, output_directory
from digits_jax.apps.evaluate.evaluation import evaluate
from digits_jax.apps.evaluate.page import build_tables, write_evaluation
from digits_jax.runs import ensemble

OUTPUT = cli.DEFINE_path("output", None, "directory to write to; default: one in the workdir or runs/shipped")
DATASET = flags.DEFINE_string("dataset", None, "the data set; default: the one that the model was trained on")
TEST_TIME_AUGMENTATION = flags.DEFINE_enum(
    "test_time_augmentation", None, ["none", "shifts"], "of the test images; default: that of the run's config"
)


def main(argv: list[str]) -> None:
    workdir = chosen_workdir()
    storage.enable_compilation_cache()
    model = ensemble.load(workdir, checkpoint=CHECKPOINT.value, test_time_augmentation=TEST_TIME_AUGMENTATION.value)
    dataset = data.load(DATASET.value or model.config.dataset.name, data_dir=DATA_DIR.value)
    trained_on = model.run["dataset"]
    if dataset.name == trained_on["name"] and dataset.sha256 != trained_on["sha256"]:
        cli.warn(f"{dataset.name} is not the version that the model was trained on: SHA-256 {dataset.sha256[:8]}...")
    evaluation = evaluate(model, dataset)
    with output_directory(OUTPUT.value or f"{workdir or 'runs/shipped'}/evaluation/{dataset.name}") as (folder, output):
        write_evaluation(evaluation, model, dataset, folder)
    for table in build_tables(evaluation):
        cli.console.print(Markdown(table), soft_wrap=False)
    cli.console.print(f"details and the misclassified images: {output / 'evaluation.html'}")


if __name__ == "__main__":
    cli.run(main)
