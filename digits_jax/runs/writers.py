"""Writers of a run's metrics besides `metrics.jsonl`: TensorBoard, Weights & Biases."""

import importlib.util
import json
import time
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
    """A writer of TensorBoard event files.

    A resumed process adds a file, so that earlier rows keep their wall time. It purges what files before it have beyond
    the rows that it resumes from.
    """

    def __init__(self, folder: Path, config: dict[str, Any], *, num_written: int) -> None:
        """Takes the number of rows that earlier processes are known to have written."""
        self._folder = folder
        self._config = config
        self._num_written = num_written if folder.exists() else 0
        self._writer: Any = None

    def write(self, rows: list[Row]) -> None:
        written, new = rows[: self._num_written], rows[self._num_written :]
        self._num_written = len(rows)
        if new and self._writer is None:
            from tensorboardX import SummaryWriter

            start, suffix = written[-1]["step"] + 1 if written else 0, f".{time.time_ns()}"  # names have seconds only
            self._writer = SummaryWriter(str(self._folder), purge_step=start, filename_suffix=suffix)
            if not written:
                self._writer.add_text("config", f"```\n{json.dumps(self._config, indent=2)}\n```", 0)  # as Markdown
        for row in new:
            for key, value in row.items():
                if key not in ("step", "epoch"):
                    self._writer.add_scalar(key, value, row["step"])
        if new:
            self._writer.flush()

    def close(self) -> None:
        if self._writer:
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
        num_rows = folder.metrics_file.read_bytes().count(b"\n") if folder.metrics_file.exists() else 0
        writers.append(TensorBoardWriter(folder.tensorboard, config.to_dict(), num_written=num_rows))
    if wandb_project:
        fields = {"name": f"{name} {config_hash(config)}", "config": config.to_dict(), "folder": folder.path}
        writers.append(WandbWriter(project=wandb_project, run_id=config_hash(config), **fields))
    return writers
