"""Up to which batch size does vgg learn as well in five epochs, and how should its learning rate grow with the batch?

The rate is 0.1 at a batch of 64. At s times as many images it is unchanged, or grows with the fourth root of s, its
square root (Krizhevsky 2014), or s itself (linear scaling, Goyal et al. 2017). The first epoch is a warm-up, at a tenth
of the rate.
"""

from digits_jax.studies import Sweep

SIZES = (64, 256, 1024, 4096, 16384)
_POWERS = {"constant": 0.0, "fourth root": 0.25, "square root": 0.5, "linear": 1.0}


def _variant(size: int, rate: float) -> dict:
    return {"batch_size": size, "epochs": (1, 4), "learning_rates": (rate / 10, rate)}


def get_sweep() -> Sweep:
    # At 64 they are all the same, and half and twice the rate take their place.
    variants = {f"64, {name}": _variant(64, rate) for name, rate in (("half", 0.05), ("0.1", 0.1), ("twice", 0.2))}
    for size in SIZES[1:]:
        for name, power in _POWERS.items():
            rate = float(f"{0.1 * (size / 64) ** power:.3g}")
            variants[f"{size}, {name}"] = _variant(size, rate)
    return Sweep(config="vgg", variants=variants, baseline="64, 0.1", num_seeds=1)
