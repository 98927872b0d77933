"""Flags that select a trained model, shared by several commands."""

from absl import flags

from digits_jax import cli

WORKDIR = flags.DEFINE_string("workdir", None, "the directory of the run, local or gs://BUCKET/PATH")
CHECKPOINT = flags.DEFINE_string("checkpoint", "best", "'best' (the epoch that the run selected), 'latest' or a step")


def required_workdir() -> str:
    """Returns `--workdir`; raises a ConfigError if it is missing."""
    return cli.required("workdir", "runs/bn_dropout/0123abcd")
