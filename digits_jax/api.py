"""Training from Python: `digits_jax.train("fast", (train_images, train_labels, test_images, test_labels))`."""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import jax
from ml_collections import ConfigDict, FrozenConfigDict

from digits_jax import cli
from digits_jax.config import get_config, load_config
from digits_jax.data import Arrays, Dataset, load_configured
from digits_jax.errors import ConfigError, UserError
from digits_jax.runs import Row, Writer
from digits_jax.runs.trained_model import TrainedModel, load_model
from digits_jax.storage import PathLike
from digits_jax.train_loop import train_seeds
from digits_jax.train_step import TrainState


class TrainedRun(NamedTuple):
    """A finished run."""

    rows: list[Row]  # the metrics of each epoch, as in `metrics.jsonl`
    result: dict[str, Any]  # the content of `result.json`, such as `result["final"]["test/accuracy"]`
    state: TrainState  # the final one
    model: TrainedModel  # of the best epoch, as `load_model` returns it


def train(
    config: str | ConfigDict | FrozenConfigDict,
    data: Dataset | Sequence[Any] | None = None,
    *,
    workdir: PathLike | None = None,
    seed: int | None = None,
    writers: Sequence[Writer] = (),
    quiet: bool = False,
) -> TrainedRun:
    """Trains one seed of a config to its end, resumed if the workdir has its run.

    Args:
      config: or the name of an experiment (`fast:sprint`), as for `load_config`.
      data: train_images, train_labels, test_images, test_labels, as for `Dataset.from_arrays`; a `Dataset`, which also
        decides how many images are held out; None: the config's data set.
      workdir: the run's directory, which may be on a bucket (`gs://`); None: a temporary one, removed at the end.
      seed: None: the config's.
      writers: of rows of metrics, besides those of the workdir.
      quiet: prints warnings only.

    Raises:
      UserError: the config, the data or the workdir is not usable, or training diverged.
      Interrupted: Ctrl-C or another signal asked for it; the same call with a workdir resumes.
    """
    name = Path(str(config).partition(":")[0]).stem if isinstance(config, str) else None
    given = load_config(config) if isinstance(config, str) else config
    config = get_config()  # has the fields of what was registered since `given` was created
    config.update(given.to_dict())
    if config.num_seeds != 1:
        raise ConfigError(f"config.num_seeds is {config.num_seeds}: expected 1, and a call for each seed")
    if seed is not None:
        config.seed = seed
    if data is None:
        data = load_configured(config.dataset)
    elif not isinstance(data, Dataset):
        if len(data) != len(Arrays._fields):
            raise UserError(f"data has {len(data)} arrays: expected {', '.join(Arrays._fields)}")
        names = ("train_examples", "test_examples", "validation_examples")
        sizes = {name: config.dataset[name] for name in names}
        data = Dataset.from_arrays(*data, **sizes)
    with contextlib.ExitStack() as stack:
        if quiet:
            stack.enter_context(cli.quiet())
        folder = workdir if workdir is not None else stack.enter_context(TemporaryDirectory())
        options: dict[str, Any] = {"name": name, "dataset": data, "writers": writers}
        [(run, progress)] = train_seeds(config, [config.seed], lambda _: folder, **options).items()
        model = load_model(folder)
        if workdir is None:
            cli.console.print("that directory is temporary and now removed: give a workdir to keep the run")
    assert run.result is not None  # it is finished
    return TrainedRun(progress.rows, run.result, jax.device_get(progress.state), model)
