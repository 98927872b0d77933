"""Evaluation: what is scored and when, each as one compiled call over a whole split."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jax.sharding import Mesh
from ml_collections import FrozenConfigDict

from digits_jax import input_pipeline, ops, parallel
from digits_jax.augment import Augment, create_test_augment, identity
from digits_jax.data import Examples
from digits_jax.metrics import Metrics
from digits_jax.test_time import average_over_versions
from digits_jax.train_step import TrainState, create_keys, gather

Order = Callable[[jax.Array, int], jax.Array]  # takes a key and N; returns N indices into as many examples
# By metric prefix: takes a state; returns the metrics on a set of N images, and which are misclassified, bool [N].
Evaluations = dict[str, Callable[[TrainState], tuple[Metrics, jax.Array]]]


class Scores(NamedTuple):
    """The result of evaluating one state."""

    metrics: dict[str, float]  # `{prefix}/loss` in nats and `{prefix}/accuracy`
    misclassified: dict[str, list[int]]  # by prefix, the indices of the misclassified images


def evaluate(evaluations: Evaluations, states: Sequence[TrainState]) -> list[Scores]:
    """Evaluates each state; several at once, as replicas."""
    scores = [Scores({}, {}) for _ in states]
    for prefix, evaluation in evaluations.items():
        results = parallel.unstack(evaluation(parallel.stack(states)), len(states))
        for score, (metrics, misclassified) in zip(scores, results, strict=True):
            score.metrics.update(metrics.compute(prefix))
            score.misclassified[prefix] = np.flatnonzero(misclassified).tolist()
    return scores


def make_eval_steps(
    model: nn.Module,
    *,
    batch_size: int,
    mesh: Mesh,
    augment: Augment = identity,
    order: Order | None = None,
    test_time_augmentation: str = "none",
    kernels: str = "auto",
    stacked: bool = False,
) -> Callable[[TrainState, Examples], tuple[Metrics, jax.Array]]:
    """Compiles the evaluation of a whole set; of several states along a leading axis where they are `stacked`.

    Returns:
      `eval_steps(state, examples)`: the metrics over all N examples in `order`, and whether each of these is
      misclassified, bool `[N]`. The last batch is padded with copies that are not scored. The random numbers of
      `augment` and `order` are a function of the state's seed and step.
    """

    def eval_steps(state: TrainState, examples: Examples) -> tuple[Metrics, jax.Array]:
        num_examples = len(examples.labels)
        size = min(batch_size, num_examples)
        keys = create_keys(state.seed)
        indices = jnp.arange(num_examples)
        if order:
            indices = order(jax.random.fold_in(keys.test_stream, state.step), num_examples)
        labels = examples.labels[indices]
        padded = jnp.minimum(jnp.arange(-(-num_examples // size) * size), num_examples - 1)
        batches = indices[padded].reshape(-1, size)
        augment_key = jax.random.fold_in(keys.test_augment, state.step)
        apply = functools.partial(model.apply, state.eval_variables, train=False)
        predict = average_over_versions(apply, test_time_augmentation)

        def logits_of(batch: tuple[jax.Array, jax.Array]) -> jax.Array:
            number, indices = batch
            images = augment(jax.random.fold_in(augment_key, number), gather(examples, indices, mesh)).images
            return predict(images)

        with ops.using(kernels, vmapped=stacked):
            logits = lax.map(logits_of, (jnp.arange(len(batches)), batches))
        logits = logits.reshape(batches.size, -1)[:num_examples]
        return Metrics.of_batch(logits, labels), logits.argmax(-1) != labels

    if stacked:
        eval_steps = jax.vmap(eval_steps, in_axes=(0, None), spmd_axis_name="seed")
    return ops.jit(eval_steps)


def create_evaluations(
    config: FrozenConfigDict, model: nn.Module, on_device: Callable[[str], Examples], *, mesh: Mesh, stacked: bool
) -> tuple[Evaluations, Evaluations]:
    """Builds what is evaluated after each epoch, and what at the end only: the test set, if images are held out.

    Args:
      config: resolved.
      model: the model.
      on_device: takes a split, "validation" or "test", and returns its examples.
      mesh, stacked: as for `make_eval_steps`.
    """

    def on(split: str, augment: Augment = identity, order: Order | None = None) -> Callable[[TrainState], Any]:
        eval_steps = make_eval_steps(
            model, batch_size=config.eval_batch_size, mesh=mesh, augment=augment, order=order,
            test_time_augmentation=config.test_time_augmentation, kernels=config.execution.kernels, stacked=stacked,
        )  # fmt: skip
        return lambda state: eval_steps(state, on_device(split))

    test = {"test": on("test")}
    augment = create_test_augment(config.augment, model.num_classes) if config.augment.test else identity
    if config.augment.test:
        test["test_augmented"] = on("test", augment)
    if config.test_stream:
        order = functools.partial(input_pipeline.stream_order, batch_size=config.eval_batch_size)
        test["test_stream"] = on("test", augment, order)
    at_the_end = test if config.dataset.score_test else {}
    return ({"validation": on("validation")}, at_the_end) if config.dataset.validation_examples else (test, {})
