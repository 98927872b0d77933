"""What the README shows as code is code that works."""

import importlib
import re
import textwrap
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from digits_jax import models
from digits_jax.train import train_and_evaluate

ROOT = Path(__file__).parents[1]


def test_the_residual_variant_trains(tmp_path: Path, vgg_config: ConfigDict, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = (ROOT / "README.md").read_text()
    (code,) = re.findall(r'^    """The VGG-like network with residual.*?(?=^\S)', readme, re.MULTILINE | re.DOTALL)
    (tmp_path / "residual_vgg.py").write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("residual_vgg")
    monkeypatch.setitem(models.MODELS, "residual_vgg", module.residual_vgg)
    vgg_config.model.update(name="residual_vgg", widths=((4, 4), (4,)))
    rows = train_and_evaluate(vgg_config, tmp_path / "run")
    assert rows[-1]["train/loss"] < rows[0]["train/loss"]
