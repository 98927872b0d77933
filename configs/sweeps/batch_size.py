"""How large a batch does bn_dropout stand within three epochs on few images, and how is its learning rate to grow?

The rates are those of a batch of 64, times s^p for s times as many images: p = 1 (linear scaling, Goyal et al. 2017) or
p = 1/2 (Krizhevsky 2014).
"""

from digits_jax.studies.plan import Sweep

POWERS = {"linear": 1.0, "square root": 0.5}


def get_sweep() -> Sweep:
    def variant(size: int, power: float) -> dict:
        rates = tuple(float(f"{rate * (size / 64) ** power:.3g}") for rate in (0.01, 0.1, 0.01))
        return {"dataset.train_examples": 12_000, "epochs": (1, 1, 1), "batch_size": size, "learning_rates": rates}

    variants = {"64": variant(64, 0)}
    for size in (32, 128, 256, 512, 1024):
        variants |= {f"{size}, {name}": variant(size, power) for name, power in POWERS.items()}
    return Sweep(config="configs/bn_dropout.py", variants=variants, baseline="64", num_seeds=5)
