"""The schedule at its boundaries, and the update."""

import jax.numpy as jnp
import pytest

from digits_jax import optimizer
from digits_jax.config import get_config, load_config

EPOCH_STEPS = 938  # 60,000 images in batches of 64, the last one of 32


def test_steps_per_epoch() -> None:
    assert [optimizer.steps_per_epoch(n, 64) for n in (60_000, 64, 63, 65)] == [938, 1, 1, 2]


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("vgg", {0: 0.01, 937: 0.01, 938: 0.1, 939: 0.1, 5627: 0.1, 5628: 0.01, 5629: 0.01, 10317: 0.01}),
        (
            "bn_dropout",
            {937: 0.01, 938: 0.1, 5627: 0.1, 5628: 0.01, 10317: 0.01, 10318: 0.001, 10319: 0.001, 15007: 0.001},
        ),
    ],
)  # fmt: skip
def test_schedule_around_its_boundaries(name: str, rates: dict[int, float]) -> None:
    config = load_config(name)
    schedule = optimizer.create_schedule(config, EPOCH_STEPS)
    assert {step: float(schedule(step)) for step in rates} == pytest.approx(rates, rel=1e-6)


def test_a_constant_rate() -> None:
    config = get_config()
    config.learning_rates, config.epochs = (0.05,), (3,)
    schedule = optimizer.create_schedule(config, 10)
    assert [float(schedule(step)) for step in (0, 9, 10, 29)] == pytest.approx([0.05] * 4)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cosine", {0: 0.1, 10: 0.075, 15: 0.05, 30: 0.0}),  # 0.1 (1 + cos(pi t / 30)) / 2
        ("linear", {0: 0.1 / 6, 5: 0.1, 6: 0.1, 18: 0.05, 29: 0.1 / 24}),  # up in 6 steps, down in 24
        ("one_cycle", {0: 0.004, 9: 0.1, 30: 4e-7}),  # a 25th; the peak after 30 %; a 250,000th
    ],
)
def test_schedules_with_one_rate(name: str, expected: dict[int, float]) -> None:
    config = get_config()
    config.schedule.name, config.learning_rates, config.epochs = name, (0.1,), (3,)
    schedule = optimizer.create_schedule(config, 10)
    assert {step: float(schedule(step)) for step in expected} == pytest.approx(expected, rel=1e-5, abs=1e-9)


def test_nesterov_looks_ahead() -> None:
    config = get_config()
    config.optimizer.name, config.learning_rates, config.epochs = "nesterov", (1.0,), (1,)
    tx = optimizer.create_optimizer(config, 2)
    gradient = {"w": jnp.array([1.0])}
    state = tx.init(gradient)
    for expected in (-1.9, -2.71):  # g + 0.9 v for v = g, then v = g + 0.9 v
        updates, state = tx.update(gradient, state)
        assert updates["w"].tolist() == pytest.approx([expected])


def test_plain_gradient_descent() -> None:
    config = get_config()
    config.learning_rates, config.epochs = (0.5, 0.25), (1, 1)
    tx = optimizer.create_optimizer(config, 1)
    params = {"w": jnp.array([1.0, 2.0])}
    state = tx.init(params)
    gradients = {"w": jnp.array([2.0, -4.0])}
    for expected in ([-1.0, 2.0], [-0.5, 1.0]):
        updates, state = tx.update(gradients, state, params)
        assert updates["w"].tolist() == expected
