"""Trains one config: `python -m digits_jax.main --config=configs/bn_dropout.py`."""

import shlex
import sys
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from digits_jax import command_line
from digits_jax.interrupts import Interrupted

CONFIG = config_flags.DEFINE_config_file("config", None, "the experiment, for example configs/bn_dropout.py")
WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run; default: runs/<config>/<hash of the config>")
PROFILE = flags.DEFINE_integer("profile", 0, "trace so many training steps with jax.profiler", lower_bound=0)
WANDB_PROJECT = flags.DEFINE_string("wandb_project", None, "also log to this project of Weights & Biases")


def main(argv: list[str]) -> int:
    command_line.required("config")
    # Imported late so that a wrong flag is answered at once.
    from digits_jax import compilation_cache, datasets, train, workdir
    from digits_jax.config import resolve, validate

    validate(CONFIG.value)
    compilation_cache.enable()
    dataset = datasets.load(CONFIG.value.dataset)
    config = resolve(CONFIG.value, dataset)
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]).stem
    folder = Path(WORKDIR.value) if WORKDIR.value else workdir.default_workdir(name, config)
    try:
        train.train_and_evaluate(
            config,
            folder,
            name=name,
            dataset=dataset,
            wandb_project=WANDB_PROJECT.value,
            profile_steps=PROFILE.value,
        )
    except Interrupted:
        print(f"interrupted and saved; go on with\n  python -m digits_jax.main {shlex.join(sys.argv[1:])}")
        return 130
    return 0


if __name__ == "__main__":
    command_line.run(main)
