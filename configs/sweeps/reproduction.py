"""Do reruns reproduce the post's printed log, trained as the log shows or as its text says?"""

# Eight hours on two CPU cores. `python -m digits_jax.studies.reproduce` turns its results into
# docs/reproduction.md.

from digits_jax.studies import Sweep
from digits_jax.studies.reproduce.post_log import EXPERIMENTS

LINEAR = ("linear", "linear_augmented")


def get_sweep() -> Sweep:
    as_logged = {
        f"{name}, as logged": {"config": f"{name}:as_logged", "num_seeds": 20 if name in LINEAR else 5}
        for name in EXPERIMENTS
    }
    as_stated = {
        f"{name}, as stated": {"config": name, "num_seeds": 20 if name in LINEAR else 10} for name in EXPERIMENTS
    }
    # A control: as logged, but with the initializer that the post's Keras was meant to use. As many seeds, because
    # fewer would have wider intervals.
    glorot = {
        f"{name}, Glorot": {**as_logged[f"{name}, as logged"], "model.kernel_init": "glorot_uniform"}
        for name in EXPERIMENTS
        if name not in LINEAR
    }
    return Sweep(
        config="linear:as_logged",
        variants=as_logged | as_stated | glorot,
        baseline="linear, as logged",
        num_seeds=3,
    )
