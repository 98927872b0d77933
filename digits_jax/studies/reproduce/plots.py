"""The post's numbers over the range of our runs."""

import numpy as np
from matplotlib.figure import Figure

from digits_jax.studies.report.plots import format_curves
from digits_jax.studies.reproduce.post_log import METRICS, inside

_LOGGED, _STATED, _OUTSIDE = "#0072B2", "#999999", "#D55E00"  # Okabe & Ito 2008


def plot_experiment(name: str, post: np.ndarray, logged: np.ndarray, stated: np.ndarray) -> Figure:
    """Draws four panels by epoch: range and mean of the runs as logged, mean of those as stated, the post's numbers.

    Args:
      name: of the experiment.
      post: `[epochs, 4]`.
      logged, stated: `[runs, epochs, 4]`.
    """
    figure = Figure(figsize=(11, 7), dpi=110, layout="constrained")
    figure.suptitle(name)
    within, epochs, mean = inside(post, logged), np.arange(1, len(post) + 1), stated.mean(0)
    for column, axes in enumerate(figure.subplots(2, 2).ravel()):
        ours, good = logged[..., column], within[:, column]
        axes.fill_between(epochs, ours.min(0), ours.max(0), color=_LOGGED, alpha=0.25, linewidth=0)
        axes.plot(epochs, ours.mean(0), color=_LOGGED, linewidth=1, label=f"as logged, {len(logged)} runs")
        axes.plot(epochs, mean[:, column], "--", color=_STATED, label=f"as stated, mean of {len(stated)} runs")
        axes.plot(epochs[good], post[good, column], "o", color="black", markersize=4.5, label="the post")
        if not good.all():
            label = "outside the 99% prediction interval"
            axes.plot(epochs[~good], post[~good, column], "X", color=_OUTSIDE, markersize=8, label=label)
        format_curves(axes, METRICS[column], np.concatenate([ours.ravel(), post[:, column], mean[:, column]]).tolist())
        axes.legend(fontsize=8)
    return figure
