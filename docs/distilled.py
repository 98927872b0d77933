"""Does tiny gain from the probabilities of a larger network (Hinton et al. 2015)?

Command:  python -m digits_jax.main --config=docs/distilled.py --config.loss.teacher=RUN
Teacher:  a finished run, trained on the same images
"""

import jax
import optax

from digits_jax.bounds import POSITIVE, WEIGHTS
from digits_jax.config import ConfigDict, Field, experiment
from digits_jax.losses import LOSSES, Loss
from digits_jax.runs import load_weights


def distillation(*, teacher: str, temperature: float = 4.0) -> Loss:
    """Compares softened probabilities with the mean of those of the teacher on the same augmented images."""
    members = load_weights(teacher).members

    def loss(logits, batch, params):
        answers = [jax.nn.softmax(m.function()(m.variables, batch.images) / temperature) for m in members]
        return temperature**2 * optax.softmax_cross_entropy(logits / temperature, sum(answers) / len(answers))

    return loss


LOSSES["distillation"] = distillation
LOSSES.arguments["teacher"] = Field(str, WEIGHTS, "run, or directory of several seeds' runs")
LOSSES.arguments["temperature"] = Field(float, POSITIVE, "divides the logits")


@experiment(base="tiny")
def get_config(config: ConfigDict) -> None:
    config.loss.name = "distillation"
    config.loss.teacher = "runs/teacher"
