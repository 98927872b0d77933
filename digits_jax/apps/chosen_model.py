"""The flags by which commands are told which trained model they are about."""

from typing import TYPE_CHECKING

from absl import flags

from digits_jax import cli

if TYPE_CHECKING:
    from digits_jax.runs.ensemble import Ensemble
    from digits_jax.runs.trained_model import TrainedModel

WORKDIR = flags.DEFINE_string("workdir", None, "folder of the run that trained the model, also gs://BUCKET/FOLDER")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "of the run's own best epoch: best; latest; or a step's number")


def chosen_model() -> "TrainedModel":
    """The model that the flags name; raises a ConfigError or UserError where there is none."""
    workdir = cli.required("workdir", "runs/vgg/0123abcd")
    from digits_jax import load_model  # late, so that a wrong flag is answered at once

    return load_model(workdir, checkpoint=CHECKPOINT.value)


def chosen_models(*, views: str | None) -> "TrainedModel | Ensemble":
    """As `chosen_model`; where the folder holds the runs of several seeds, all of them. `views` as for `load_model`."""
    workdir = cli.required("workdir", "runs/vgg/0123abcd")
    from digits_jax.runs import ensemble

    return ensemble.load(workdir, checkpoint=CHECKPOINT.value, test_time_augmentation=views)
