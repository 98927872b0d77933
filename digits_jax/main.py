"""Trains one config: `python -m digits_jax.main --config=configs/bn_dropout.py`."""

from pathlib import Path

from absl import flags
from ml_collections import FrozenConfigDict, config_flags

from digits_jax import cli
from digits_jax.runs.interrupts import Interrupted
from digits_jax.storage import enable_compilation_cache

CONFIG = config_flags.DEFINE_config_file("config", None, "the experiment, for example configs/bn_dropout.py")
WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "folder of the run, or with several seeds of their runs, also gs://BUCKET/FOLDER; default: runs/<config>/<hash>",
)
PROFILE = flags.DEFINE_integer("profile", 0, "trace so many training steps with jax.profiler", lower_bound=0)
WANDB_PROJECT = flags.DEFINE_string("wandb_project", None, "also log to this project of Weights & Biases")
# Of several processes; SLURM, Open MPI and a TPU pod say all but the last two by themselves.
COORDINATOR = flags.DEFINE_string("coordinator", None, "HOST:PORT where process 0 waits for the others")
NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "how many processes train together", lower_bound=1)
PROCESS_ID = flags.DEFINE_integer("process_id", None, "which of them this is, from 0", lower_bound=0)
BIND_ADDRESS = flags.DEFINE_string("bind_address", None, "HOST:PORT that process 0 listens on; default: all addresses")
PEER_TIMEOUT = flags.DEFINE_integer("peer_timeout", 30, "seconds after which a silent process is dead", lower_bound=1)


def main(argv: list[str]) -> int:
    cli.required("config", "configs/bn_dropout.py")
    # Imported late so that a wrong flag is answered at once.
    from etils import epath

    from digits_jax import train
    from digits_jax.config import validate
    from digits_jax.parallel import distributed
    from digits_jax.runs import console
    from digits_jax.runs.workdir import default_workdir

    config = CONFIG.value
    validate(config)
    distributed.initialize(
        distributed.Cluster(
            coordinator=COORDINATOR.value,
            num_processes=NUM_PROCESSES.value,
            process_id=PROCESS_ID.value,
            bind_address=BIND_ADDRESS.value,
            peer_timeout=PEER_TIMEOUT.value,
        )
    )
    console.console.quiet = not distributed.is_first()
    enable_compilation_cache()
    name = Path(config_flags.get_config_filename(flags.FLAGS["config"]).partition(":")[0]).stem

    def workdir_of(resolved: FrozenConfigDict) -> epath.PathLike:
        if not WORKDIR.value:
            return default_workdir(name, resolved)
        return epath.Path(WORKDIR.value) / (f"seed{resolved.seed}" if config.num_seeds > 1 else "")

    try:
        with distributed.ending_with_others(PEER_TIMEOUT.value):
            train.train_seeds(
                config,
                range(config.seed, config.seed + config.num_seeds),
                workdir_of,
                name=name,
                wandb_project=WANDB_PROJECT.value,
                profile_steps=PROFILE.value,
            )
    except Interrupted as interrupted:
        console.console.print(f"interrupted and saved; go on with\n  {cli.again()}", markup=False)
        return interrupted.exit_code
    return 0


if __name__ == "__main__":
    cli.run(main)
