"""Where does a model fail? `python -m digits_jax.apps.evaluate --workdir=runs/vgg/0123abcd`

Scores it on the test images of the data that it was trained on, or of another data set with as many classes. Writes
`evaluation.json`, figures, and a self-contained `evaluation.html` that also shows the misclassified images, into
`evaluation/<data set>` in the run's folder, or into `--output`. Where `--workdir` is the folder of several seeds' runs,
their models answer together.
"""

from pathlib import Path
from statistics import fmean

from absl import flags
from etils import epath
from rich.progress import track
from rich.table import Table

from digits_jax import cli, data, storage, views
from digits_jax.apps.chosen_model import WORKDIR, chosen_models
from digits_jax.apps.evaluate.corruptions import CORRUPTIONS
from digits_jax.apps.evaluate.evaluation import Cases, Evaluation, evaluate
from digits_jax.apps.evaluate.page import class_rows, interval, write
from digits_jax.config import get_config
from digits_jax.data import Dataset
from digits_jax.errors import ConfigError, UserError
from digits_jax.runs.console import console, percent, warn
from digits_jax.storage import bucket

DATASET = flags.DEFINE_string("dataset", None, "whose test images; default: those of the data it was trained on")
SOURCE_DIR = flags.DEFINE_string("source_dir", None, "folder with its original IDX files, where it is not prepared yet")
VIEWS = flags.DEFINE_enum("views", None, sorted(views.VIEWS), "test-time augmentation; default: as the run was scored")
OUTPUT = flags.DEFINE_string("output", None, "folder for what is found; default: evaluation/<data set> in the workdir")


def main(argv: list[str]) -> None:
    storage.enable_compilation_cache()
    model = chosen_models(views=VIEWS.value)
    dataset = _load(DATASET.value or model.config.dataset.name)
    trained_on = model.run["dataset"]
    if dataset.name == trained_on["name"] and dataset.sha256 != trained_on["sha256"]:
        warn(f"{dataset.name} is another version than the model was trained on: its SHA-256 is {dataset.sha256[:8]}...")
    evaluation = evaluate(model, dataset, watch=_progress_bar)
    place = OUTPUT.value or epath.Path(WORKDIR.value) / "evaluation" / dataset.name
    with bucket.local_copy(place) as mirror:
        folder = mirror.local if mirror else Path(place)
        try:
            write(evaluation, model, dataset, folder)
        except OSError as error:
            raise UserError(f"{write_error(folder, error)}: give another, --output=FOLDER") from None
        if mirror:
            mirror.push()
    show(evaluation)
    console.print(f"\neverything, and the misclassified images, in {epath.Path(place) / 'evaluation.html'}")


def _load(name: str) -> Dataset:
    if name not in data.DATASETS:
        raise ConfigError(f"--dataset is {name!r}: expected one of {', '.join(data.DATASETS)}")
    dataset_config = get_config().dataset
    dataset_config.name, dataset_config.source_dir = name, SOURCE_DIR.value
    return data.load_configured(dataset_config)


def _progress_bar(cases: Cases) -> Cases:
    count = sum(len(corruption.strengths) for corruption in CORRUPTIONS)
    return track(cases, "spoilt images", count, console=console, transient=True, disable=not console.is_terminal)


def show(evaluation: Evaluation) -> None:
    """A summary on the terminal."""
    scores = evaluation.scores
    console.print(f"accuracy           {percent(scores.accuracy.fraction)} ({interval(scores.accuracy)} at 95 %)")
    if len(evaluation.alone) > 1:
        alone = sorted(accuracy.fraction for accuracy in evaluation.alone)
        console.print(f"each model alone   {percent(alone[0])} to {percent(alone[-1])}, mean {percent(fmean(alone))}")
    console.print(f"loss               {scores.loss:.4f} nats")
    console.print(f"calibration error  {100 * scores.ece:.2f} points\n")
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("class")
    for name in ("precision", "recall", "images"):
        table.add_column(name, justify="right")
    for row in class_rows(scores):
        table.add_row(*row)
    console.print(table)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("accuracy, spoilt by")
    for _ in CORRUPTIONS[0].strengths:
        table.add_column("", justify="right")
    for corruption in CORRUPTIONS:
        shares = evaluation.robustness[corruption.name]
        cells = (f"{percent(s.fraction)}" for s in shares)
        table.add_row(corruption.name, *cells)
        table.add_row(f"  {corruption.unit}", *(f"{s:g}" for s in corruption.strengths), style="dim")
    console.print(table)


if __name__ == "__main__":
    cli.run(main)
