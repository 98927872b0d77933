"""Commands around a run that is there: each a module to run, `python -m digits_jax.apps.replay`."""
