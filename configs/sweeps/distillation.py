"""Does tiny gain from the probabilities of strong, on images by other writers?

Test images are not scored.
"""

from digits_jax.studies import ON_MORE_WRITERS, Sweep

# The teacher, strong with hard labels on the same images:
#   python -m digits_jax.main --config=strong --config.loss.label_smoothing=0 --config.dataset.validation_examples=10000
#       --config.dataset.validation_split=writers --config.dataset.score_test=False --workdir=runs/teacher
DISTILLED = {"config": "docs/distilled.py"}


def get_sweep() -> Sweep:
    candidates: dict[str, dict] = {
        "labels only": {},
        "temperature 1": DISTILLED | {"loss.temperature": 1.0},
        "temperature 4": DISTILLED,
    }
    variants = {name: ON_MORE_WRITERS | fields for name, fields in candidates.items()}
    return Sweep(config="tiny", variants=variants, baseline="labels only", num_seeds=3)
