"""Training on: a new run that begins where another one has ended."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict, FrozenConfigDict

from digits_jax import storage
from digits_jax.data import Dataset
from digits_jax.errors import ConfigError, UserError
from digits_jax.optimizer import create_schedule, steps_per_epoch
from digits_jax.runs.checkpoint import Progress, read_checkpoint, read_history, saved_steps
from digits_jax.runs.history import best_row, score_key
from digits_jax.runs.registration import read_config
from digits_jax.runs.workdir import Workdir, differences_to_run
from digits_jax.storage import PathLike
from digits_jax.train_step import TrainState

_MAY_DIFFER = ("config.epochs", "config.learning_rates", "config.schedule", "config.early_stopping_epochs")


class Parent(NamedTuple):
    """The run that another one continues, at the end of its last epoch."""

    folders: list[Path]  # of its checkpoints: of the best epoch, and of the last
    num_epochs: int
    is_identical: bool  # to have trained so long from the start would have led to the same bits
    facts: dict[str, Any]  # recorded in `run.json`

    def read(self, initial_state: TrainState, config: FrozenConfigDict) -> list[Progress]:
        """Returns the progress at each of its checkpoints; raises a UserError as `read_checkpoint`."""
        return [read_checkpoint(folder, Progress.at_the_start(initial_state, config)) for folder in self.folders]

    @property
    def note(self) -> str:
        """A line for the terminal about the new run."""
        what = f"continues a run after its {self.num_epochs} epochs"
        if self.is_identical:
            return f"{what}, bit-identical to one that was so long from the start"
        return f"{what}, under another learning rate than a run that was so long from the start would have had"


def extend(
    configs: Sequence[FrozenConfigDict], dataset: Dataset, path: PathLike
) -> tuple[list[FrozenConfigDict], dict[int, Parent]]:
    """Finds the runs that new ones continue.

    Args:
      configs: resolved, of the new runs, which differ in their seeds.
      dataset: their data.
      path: the directory of the run or, of several seeds, the one that has theirs in `seed0`, `seed1`, ...

    Returns:
      The configs, with the state that they begin from where it is not on the way of a run from the start; and the
      parents by seed.

    Raises:
      ConfigError: a run differs in more than its schedule, or is as long already.
      UserError: there is no such run, or it has stopped within an epoch.
    """
    root, parents, extended = storage.open_path(path), {}, []
    for config in configs:
        parent = _find_parent(config, dataset, root / f"seed{config.seed}" if len(configs) > 1 else root)
        parents[config.seed] = parent
        state = None if parent.is_identical else parent.facts["state_sha256"]
        extended.append(FrozenConfigDict(ConfigDict({**config.to_dict(), "extends_sha256": state})))
    return extended, parents


def _find_parent(config: FrozenConfigDict, dataset: Dataset, path: Path) -> Parent:
    workdir = Workdir(path)
    run = workdir.read_run()
    theirs = read_config(run, path)
    for field, ours, value in differences_to_run(config, dataset, run):
        if not field.startswith(_MAY_DIFFER) and field != "config.extends_sha256":
            raise ConfigError(f"{field} is {ours!r}: expected {value!r}, as in {path}, whose schedule alone may differ")
    step = max(saved_steps(workdir.checkpoints), default=0)
    rows = read_history(workdir.checkpoints / str(step))["rows"] if step else []
    if not rows or rows[-1]["step"] != step:
        raise UserError(f"{path} has stopped at step {step}, within an epoch: expected a run that ended with one")
    if sum(config.epochs) <= len(rows):
        raise ConfigError(f"config.epochs is {config.epochs!r}: expected more than the {len(rows)} epochs of {path}")
    folders = [workdir.checkpoints / str(number) for number in (best_row(rows, score_key(config))["step"], step)]
    for folder in folders:
        if wrong := storage.find_damage(folder, workdir.identity):
            raise UserError(f"the checkpoint {folder} {wrong}: expected one that is intact")
    epoch_steps = steps_per_epoch(len(dataset.arrays.train_labels), config.batch_size)
    steps = jnp.arange(step)
    rates = [jax.vmap(create_schedule(of, epoch_steps))(steps) for of in (config, theirs)]
    is_identical = bool((rates[0] == rates[1]).all()) and theirs.extends_sha256 is None
    facts = {"config_hash": run["config_hash"], "step": step, "state_sha256": storage.read_facts(folders[-1])["state"]}
    facts["is_identical"] = is_identical
    return Parent(folders[folders[0] == folders[1] :], len(rows), is_identical, facts)
