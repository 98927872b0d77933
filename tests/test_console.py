"""What a person sees."""

import pytest

from digits_jax import cli, models
from digits_jax.config import load_config
from digits_jax.runs import console


def test_layers_in_the_order_they_are_called(capsys: pytest.CaptureFixture) -> None:
    config = load_config("bn_dropout")
    config.model.update(mean=33.0, std=78.0)
    console.show_parameters(models.create_model(config.model, num_classes=10), (28, 28, 1))
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert rows[0] == ["layer", "output", "parameters"]
    assert rows[1:3] == [["Conv_0", "26x26x32", "320"], ["BatchNorm_0", "26x26x32", "64"]]
    assert rows[-2:] == [["Dense_1", "10", "5,130"], ["total", "596,330"]]
    assert len(rows) == 13


def test_figures() -> None:
    assert cli.percent(0.99555) == "99.56%"
    assert cli.percent(1.0) == "100.00%"
    assert [cli.duration(s) for s in (0.4, 59.4, 60, 3599.6)] == ["0 s", "59 s", "1 min 00 s", "60 min 00 s"]
