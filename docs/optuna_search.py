"""Searches hyperparameters with Optuna, by accuracy on held-out training images. The test set plays no part.

    ./launch.sh setup search && source .venv/bin/activate
    python docs/optuna_search.py --trials=20 --config=fast --config.dataset.validation_examples=5000

The same command adds trials to the study. An interrupted search proposes what an uninterrupted one would.
"""

from pathlib import Path

import optuna
from absl import flags
from ml_collections import config_flags
from optuna.trial import FrozenTrial, TrialState

import digits_jax
from digits_jax import cli
from digits_jax.errors import ConfigError, DivergedError
from digits_jax.runs import Interrupted, Row
from digits_jax.runs.identity import config_hash

CONFIG = config_flags.DEFINE_config_file("config", None, "the experiment, trained by SGD with momentum")
TRIALS = flags.DEFINE_integer("trials", 20, "trials to add", lower_bound=1)
STUDY = cli.DEFINE_path("study", "runs/optuna.db", "SQLite file; has a study for each config")
FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


class Pruner:
    """A writer that reports each epoch to Optuna, and ends a trial below the median of the earlier ones."""

    def __init__(self, trial: optuna.Trial) -> None:
        self.trial = trial

    def write(self, rows: list[Row]) -> None:
        for row in rows[-1:]:
            self.trial.report(row["validation/accuracy"], row["epoch"])
        if self.trial.should_prune():
            raise optuna.TrialPruned

    def close(self) -> None:
        pass


def objective(trial: optuna.Trial) -> float:
    """Trains with the values of a trial, and returns the final accuracy on held-out images."""
    config = CONFIG.value.copy_and_resolve_references()
    config.epochs = (sum(config.epochs),)
    config.learning_rates = (trial.suggest_float("learning_rate", 0.01, 1, log=True),)
    config.optimizer.momentum = trial.suggest_float("momentum", 0.5, 0.99)
    config.loss.label_smoothing = trial.suggest_float("label_smoothing", 0, 0.2)
    return digits_jax.train(config, writers=[Pruner(trial)], quiet=True).rows[-1]["validation/accuracy"]


def report(trial: FrozenTrial) -> None:
    values = ", ".join(f"{name} {value:.3g}" for name, value in trial.params.items())
    print(f"trial {trial.number} {trial.state.name.lower()}, validation accuracy {trial.value}, {values}")


def main(argv: list[str]) -> int | None:
    cli.required("config", "fast")
    if not CONFIG.value.dataset.validation_examples:
        raise ConfigError("config.dataset.validation_examples is 0: expected images to hold out, such as 5000")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    Path(STUDY.value).parent.mkdir(parents=True, exist_ok=True)
    options = {"storage": f"sqlite:///{STUDY.value}", "study_name": config_hash(CONFIG.value)}
    study = optuna.create_study(direction="maximize", load_if_exists=True, **options)
    for _ in range(TRIALS.value):
        # Seeded per trial: a single seed would propose the same values again in the next call.
        study.sampler = optuna.samplers.TPESampler(seed=len(study.get_trials(states=FINISHED)))
        trial = study.ask()
        try:
            done = study.tell(trial, objective(trial))
        except (optuna.TrialPruned, DivergedError):
            done = study.tell(trial, state=TrialState.PRUNED)
        except Interrupted as interrupted:
            return interrupted.exit_code
        report(done)
    for best in study.best_trials[:1]:
        print("best:", end=" ")
        report(best)
    return 0


if __name__ == "__main__":
    cli.run(main)
