"""Steps of a run, one by one, with their numbers: `python -m digits_jax.apps.replay runs/vgg/HASH --steps=40:60`

It goes on from the last checkpoint before them and saves nothing. Data that is not in the default place is found by
$TFDS_DATA_DIR.
"""

import re
from pathlib import Path

from absl import flags

from digits_jax import cli
from digits_jax.config import from_recorded
from digits_jax.data import load_configured
from digits_jax.errors import ConfigError, UserError
from digits_jax.experiment import build
from digits_jax.replay import replay
from digits_jax.runs.checkpoint import Checkpoints, Progress
from digits_jax.runs.console import console
from digits_jax.runs.workdir import Workdir
from digits_jax.storage import local_copy

STEPS = flags.DEFINE_string("steps", None, "FIRST:LAST, counted from 0, LAST exclusive")


def main(argv: list[str]) -> None:
    if len(argv) != 2:
        raise ConfigError("expected one folder of a run, such as runs/vgg/0123abcd")
    found = re.fullmatch(r"(\d+):(\d+)", STEPS.value or "")
    if not found or int(found[1]) >= int(found[2]):
        raise ConfigError(f"--steps is {STEPS.value!r}: expected FIRST:LAST with FIRST below LAST, such as 40:60")
    first, last = int(found[1]), int(found[2])
    with local_copy(argv[1]) as mirror:
        _show(Workdir(mirror.local if mirror else Path(argv[1])), first, last)


def _show(folder: Workdir, first: int, last: int) -> None:
    config = from_recorded(folder.read_run()["config"])
    dataset = load_configured(config.dataset)
    folder.open(config, dataset)
    checkpoints = Checkpoints(folder.checkpoints)
    try:
        start = checkpoints.restore(Progress.at_the_start(build(config, dataset).initial_state), step=first)
        if start is None:
            raise UserError(f"{folder.checkpoints} has no checkpoint of step {first} or of one before it any more")
        console.print("    step  learning rate          loss  gradient norm  largest parameter")
        for report in replay(config, dataset, start, first=first, last=last):
            step, rate, loss, norm, largest = report
            console.print(f"{step:8}{rate:15.6g}{loss:14.6g}{norm:15.6g}{largest:19.6g}  {report.bad or ''}".rstrip())
    finally:
        checkpoints.close()
        folder.close()


if __name__ == "__main__":
    cli.run(main, positional=True)
