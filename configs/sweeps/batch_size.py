"""How large a batch does bn_dropout stand within three epochs on few images, and how is its learning rate to grow?

The rates are those of a batch of 64, times s^p for s times as many images: p = 1 (linear scaling, Goyal et al. 2017) or
p = 1/2 (Krizhevsky 2014). The running statistics by which test images are normalised move by 1 % of the way with each
batch, which is too slow for the few batches of three epochs: after 141 of 256 images each they still have a quarter of
what they started with. Where these "follow" they move as far per image as with a batch of 64 (a momentum of 0.99^s).
"""

from digits_jax.studies.plan import Sweep

POWERS = {"linear": 1.0, "square root": 0.5}


def get_sweep() -> Sweep:
    def variant(size: int, power: float, **more: float) -> dict:
        rates = tuple(float(f"{rate * (size / 64) ** power:.3g}") for rate in (0.01, 0.1, 0.01))
        return {
            "dataset.train_examples": 12_000,
            "epochs": (1, 1, 1),
            "batch_size": size,
            "learning_rates": rates,
            **more,
        }

    variants = {"64": variant(64, 0)}
    for size in (32, 128, 256, 512, 1024):
        variants |= {f"{size}, {name}": variant(size, power) for name, power in POWERS.items()}
    for size in (128, 256, 512, 1024):
        follow = {"model.bn_momentum": round(0.99 ** (size / 64), 4)}
        variants[f"{size}, linear, statistics follow"] = variant(size, 1.0, **follow)
    return Sweep(config="configs/bn_dropout.py", variants=variants, baseline="64", num_seeds=5)
