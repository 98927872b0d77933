"""Trains an experiment: `python -m digits_jax.main --config=bn_dropout`."""

from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import FrozenConfigDict, config_flags

from digits_jax import cli

CONFIG = config_flags.DEFINE_config_file("config", None, "the experiment: a name such as bn_dropout, or a file's path")
WORKDIR = cli.DEFINE_path(
    "workdir",
    None,
    "the run's directory, or with several seeds that of all; may be gs://BUCKET/DIR; default: runs/<config>/<hash>",
)
PROFILE = flags.DEFINE_integer("profile", 0, "number of training steps to trace with jax.profiler", lower_bound=0)
EXTEND = cli.DEFINE_path("extend", None, "the directory of a run, or that of several seeds', to continue as a new run")
WANDB_PROJECT = flags.DEFINE_string("wandb_project", None, "also log to this Weights & Biases project")
cli.DEFINE_code()
cli.DEFINE_cluster()


def main(argv: list[str]) -> int:
    """Trains the config of `--config` with each of its seeds; returns the exit code."""
    cli.required("config", "bn_dropout")
    # Imported late so that a wrong flag is reported at once.
    from digits_jax import parallel, runs, storage, train_loop
    from digits_jax.config import SECTIONS, load_config, validate

    config, path = CONFIG.value, config_flags.get_config_filename(flags.FLAGS["config"])
    SECTIONS.unset_unfit(config, load_config(path))  # another --config.model.name has no use for the file's arguments
    validate(config)
    parallel.initialize(*cli.cluster())
    cli.console.quiet = not parallel.is_first()
    storage.enable_compilation_cache()
    name = Path(path.partition(":")[0]).stem

    def workdir_of(resolved: FrozenConfigDict) -> storage.PathLike:
        if not WORKDIR.value:
            return runs.default_workdir(name, resolved)
        return f"{WORKDIR.value}/seed{resolved.seed}" if config.num_seeds > 1 else WORKDIR.value

    seeds = range(config.seed, config.seed + config.num_seeds)
    options: dict[str, Any] = {"name": name, "wandb_project": WANDB_PROJECT.value, "profile_steps": PROFILE.value}
    try:
        with parallel.ending_with_others(flags.FLAGS.peer_timeout):
            train_loop.train_seeds(config, seeds, workdir_of, code=cli.code_policy(), extend=EXTEND.value, **options)
    except runs.Interrupted as interrupted:
        cli.console.print(f"interrupted and saved; resume with\n  {cli.again()}")
        return interrupted.exit_code
    return 0


if __name__ == "__main__":
    cli.run(main)
