"""The post's points over the band of our runs."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from digits_jax.runs.curves import scale_accuracies, scale_losses
from digits_jax.studies.reproduce.post_log import FIGURES, inside

_LOGGED, _STATED, _OUTSIDE = "#0072B2", "#999999", "#D55E00"  # Okabe & Ito 2008


def plot_experiment(name: str, post: np.ndarray, logged: np.ndarray, stated: np.ndarray) -> Figure:
    """Four panels by epoch: the range and mean of the runs as logged, the mean of those as stated, the post's points.

    Args:
      name: the experiment's.
      post: `[epochs, 4]`.
      logged, stated: `[runs, epochs, 4]`.
    """
    figure = Figure(figsize=(11, 7), dpi=110, layout="constrained")
    figure.suptitle(name)
    within, epochs = inside(post, logged), np.arange(1, len(post) + 1)
    for column, axes in enumerate(figure.subplots(2, 2).ravel()):
        values = logged[..., column]
        axes.fill_between(epochs, values.min(0), values.max(0), color=_LOGGED, alpha=0.25, linewidth=0)
        axes.plot(epochs, values.mean(0), color=_LOGGED, linewidth=1, label=f"as logged, {len(logged)} runs")
        axes.plot(
            epochs, stated[..., column].mean(0), "--", color=_STATED, label=f"as stated, mean of {len(stated)} runs"
        )
        good = within[:, column]
        axes.plot(epochs[good], post[good, column], "o", color="black", markersize=4.5, label="the post")
        if not good.all():
            axes.plot(
                epochs[~good], post[~good, column], "X", color=_OUTSIDE, markersize=8, label="outside the 99 % interval"
            )
        shown = np.concatenate([values.ravel(), post[:, column], stated[..., column].mean(0)])
        if "accuracy" in FIGURES[column]:
            scale_accuracies(axes, shown.tolist())
            axes.set_ylabel(FIGURES[column])
        else:
            scale_losses(axes)
            axes.set_ylabel(f"{FIGURES[column]} (nats)")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(fontsize=8)
    return figure
