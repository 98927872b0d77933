"""Where the rows of a run are written: `metrics.jsonl`, TensorBoard, Weights & Biases."""

import json
import shutil
from pathlib import Path
from typing import Any, Protocol

from digits_jax.errors import UserError
from digits_jax.storage import replace_text


class Writer(Protocol):
    """Is given all rows of the run so far, after each epoch and at the start of a process."""

    def write(self, rows: list[dict[str, Any]]) -> None: ...

    def close(self) -> None: ...


class JsonlWriter:
    """One JSON object a line."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def write(self, rows: list[dict[str, Any]]) -> None:
        replace_text(self._path, "".join(json.dumps(row) + "\n" for row in rows))

    def close(self) -> None:
        pass


class TensorBoardWriter:
    """Event files for TensorBoard, by step; written anew by each process, so that a resumed run has no row twice.

    The config is there as a text, so that runs side by side can be told apart.
    """

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        from tensorboardX import SummaryWriter

        shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder))
        self._writer.add_text("config", f"```\n{json.dumps(config, indent=2)}\n```")  # shown as Markdown
        self._num_written = 0

    def write(self, rows: list[dict[str, Any]]) -> None:
        for row in rows[self._num_written :]:
            for key, value in row.items():
                if key not in ("step", "epoch"):
                    self._writer.add_scalar(key, value, row["step"])
        self._num_written = len(rows)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbWriter:
    """A Weights & Biases run; needs the extra `wandb`. A resumed run goes on in the same one."""

    def __init__(self, *, project: str, run_id: str, name: str, config: dict[str, Any], folder: Path) -> None:
        try:
            import wandb
        except ImportError:
            raise UserError(
                f"--wandb_project={project} needs Weights & Biases: ./launch.sh setup wandb, or drop the flag"
            ) from None
        self._run = wandb.init(project=project, id=run_id, name=name, config=config, dir=str(folder), resume="allow")

    def write(self, rows: list[dict[str, Any]]) -> None:
        for row in rows:
            if row["step"] >= self._run.step:  # W&B counts one past the last step it has
                self._run.log({key: value for key, value in row.items() if key != "step"}, step=row["step"])

    def close(self) -> None:
        self._run.finish()
