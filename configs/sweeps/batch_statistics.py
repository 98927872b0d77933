"""What do larger batches of bn_dropout lose to outdated running statistics, and does a lower rate help?

The running mean and variance, which normalize test images, move by 1% of the way with each batch, whatever its size.
After the 141 batches of 256 images of three epochs, a quarter of their initial value is still in them, after 36 of
1,024 images seven tenths. The rates are those of a batch of 64, times s^p for s times as many images: p = 1 ("linear",
Goyal et al. 2017) or p = 1/2 ("square root", Krizhevsky 2014).
"""

from digits_jax.studies import Sweep

POWERS = {"linear": 1.0, "square root": 0.5}


def get_sweep() -> Sweep:
    def variant(size: int, power: float) -> dict:
        rates = tuple(float(f"{rate * (size / 64) ** power:.3g}") for rate in (0.01, 0.1, 0.01))
        return {"dataset.train_examples": 12_000, "epochs": (1, 1, 1), "batch_size": size, "learning_rates": rates}

    variants = {"64": variant(64, 0)}
    for size in (32, 128, 256, 512, 1024):
        variants |= {f"{size}, {name}": variant(size, power) for name, power in POWERS.items()}
    return Sweep(config="bn_dropout", variants=variants, baseline="64", num_seeds=5)
