"""Writers of a run's metrics besides `metrics.jsonl`: TensorBoard, Weights & Biases."""

import importlib.util
import json
import shutil
from pathlib import Path
from typing import Any, Protocol

from ml_collections import FrozenConfigDict

from digits_jax.errors import UserError
from digits_jax.runs.history import Row
from digits_jax.runs.identity import config_hash
from digits_jax.runs.workdir import Workdir


class Writer(Protocol):
    """A receiver of all rows of a run so far, after each epoch and at the start of a process."""

    def write(self, rows: list[Row]) -> None:
        """Writes the rows that are new."""

    def close(self) -> None:
        """Closes files and connections."""


class TensorBoardWriter:
    """A writer of TensorBoard event files, rewritten by each process, so that a resumed run has no row twice."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        from tensorboardX import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))
        self._writer.add_text("config", f"```\n{json.dumps(config, indent=2)}\n```")  # as Markdown
        self._num_written = 0

    def write(self, rows: list[Row]) -> None:
        for row in rows[self._num_written :]:
            for key, value in row.items():
                if key not in ("step", "epoch"):
                    self._writer.add_scalar(key, value, row["step"])
        self._num_written = len(rows)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbWriter:
    """A writer to Weights & Biases; needs the extra `wandb`. A resumed run continues the same W&B run."""

    def __init__(self, *, project: str, run_id: str, name: str, config: dict[str, Any], folder: Path) -> None:
        try:
            import wandb
        except ImportError:
            needed = f"--wandb_project={project} needs Weights & Biases"
            raise UserError(f"{needed}: ./launch.sh setup wandb, or drop the flag") from None
        self._run = wandb.init(project=project, id=run_id, name=name, config=config, dir=str(folder), resume="allow")

    def write(self, rows: list[Row]) -> None:
        for row in rows:
            if row["step"] >= self._run.step:  # W&B counts one past the last step it has
                self._run.log({key: value for key, value in row.items() if key != "step"}, step=row["step"])

    def close(self) -> None:
        self._run.finish()


def create_writers(folder: Workdir, config: FrozenConfigDict, *, name: str, wandb_project: str | None) -> list[Writer]:
    """Creates a run's writers: TensorBoard if tensorboardX is installed, Weights & Biases if a project is given."""
    writers: list[Writer] = []
    if importlib.util.find_spec("tensorboardX"):
        writers.append(TensorBoardWriter(folder.tensorboard, config.to_dict()))
    if wandb_project:
        fields = {"name": f"{name} {config_hash(config)}", "config": config.to_dict(), "folder": folder.path}
        writers.append(WandbWriter(project=wandb_project, run_id=config_hash(config), **fields))
    return writers
