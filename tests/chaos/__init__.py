"""Runs that are killed and checkpoints that are damaged, at random, beside a run that is left alone."""
