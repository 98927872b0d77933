"""Trains one config: `python -m digits_jax.main --config=configs/bn_dropout.py`."""

from pathlib import Path

from absl import flags
from ml_collections import FrozenConfigDict, config_flags

from digits_jax import command_line
from digits_jax.interrupts import Interrupted

CONFIG = config_flags.DEFINE_config_file("config", None, "the experiment, for example configs/bn_dropout.py")
WORKDIR = flags.DEFINE_string(
    "workdir", None, "folder of the run, or with several seeds of their runs; default: runs/<config>/<hash>"
)
PROFILE = flags.DEFINE_integer("profile", 0, "trace so many training steps with jax.profiler", lower_bound=0)
WANDB_PROJECT = flags.DEFINE_string("wandb_project", None, "also log to this project of Weights & Biases")


def main(argv: list[str]) -> int:
    command_line.required("config", "configs/bn_dropout.py")
    # Imported late so that a wrong flag is answered at once.
    from digits_jax import compilation, train
    from digits_jax.config import validate
    from digits_jax.workdir import default_workdir

    config = CONFIG.value
    validate(config)
    compilation.enable_cache()
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]).stem

    def workdir_of(resolved: FrozenConfigDict) -> Path:
        if not WORKDIR.value:
            return default_workdir(name, resolved)
        return Path(WORKDIR.value, f"seed{resolved.seed}" if config.num_seeds > 1 else "")

    try:
        train.train_seeds(
            config,
            range(config.seed, config.seed + config.num_seeds),
            workdir_of,
            name=name,
            wandb_project=WANDB_PROJECT.value,
            profile_steps=PROFILE.value,
        )
    except Interrupted as interrupted:
        print(f"interrupted and saved; go on with\n  {command_line.again()}")
        return interrupted.exit_code
    return 0


if __name__ == "__main__":
    command_line.run(main)
