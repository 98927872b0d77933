"""Which change makes fast:sprint more accurate on images by other writers, at no more time?

The candidates are those of choose_fast, with more seeds, because a run takes a third of the time. Test images are not
scored. The candidate with the highest mean becomes `fast:sprint`.
"""

from digits_jax.studies.sweep import Sweep, load_sweep


def get_sweep() -> Sweep:
    return load_sweep("choose_fast")._replace(config="fast:sprint", num_seeds=5)
