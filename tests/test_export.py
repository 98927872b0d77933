"""Exported files, loaded by the programs that they are for."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export as jax_export

from digits_jax import load_model
from digits_jax.apps.export.formats import FORMATS, TOLERANCE, Agreement, export_model, reference
from digits_jax.apps.export.model_card import build_model_card
from digits_jax.errors import UserError
from digits_jax.runs.trained_model import TrainedModel

_NEEDED = {"stablehlo": ["flatbuffers"], "onnx": ["onnx", "onnxruntime"], "npz": []}


@pytest.fixture(scope="module")
def model(trained: Path) -> TrainedModel:
    return load_model(trained)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (70, 28, 28, 1), np.uint8)


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_loads_as_its_model_card_says(
    name: str, model: TrainedModel, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for package in _NEEDED[name]:
        pytest.importorskip(package)
    agreement = export_model(model, name, tmp_path / f"model.{name}", images)
    assert [path.name for path in tmp_path.iterdir()] == [f"model.{name}"]
    assert (agreement.num_images, agreement.changed) == (70, 0)
    assert agreement.difference < TOLERANCE
    card = build_model_card(model, agreement, format_name=name, file_name=f"model.{name}", checked_on="random images")
    code = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert code
    assert code[1].count("\n") == 3
    monkeypatch.chdir(tmp_path)
    variables = {"images": images[:3]}
    exec(code[1], variables)  # a new user's three lines
    if name == "npz":
        arrays = variables["arrays"]
        np.testing.assert_array_equal(arrays["params/Conv_0/kernel"], model.variables["params"]["Conv_0"]["kernel"])
        assert "batch_stats/BatchNorm_0/mean" in arrays
        assert variables["config"] == model.run["config"]
        assert "float32." not in card
    else:
        np.testing.assert_allclose(np.asarray(variables["probabilities"]), model.predict(images[:3]), atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["onnx", "stablehlo"])
def test_test_time_augmentation_and_bfloat16(
    name: str, model: TrainedModel, images: np.ndarray, tmp_path: Path
) -> None:
    for package in _NEEDED[name]:
        pytest.importorskip(package)
    config = {**model.config.to_dict(), "test_time_augmentation": "shifts"}
    config["model"]["dtype"] = "bfloat16"
    of_run = TrainedModel({**model.run, "config": config}, model.variables, step=model.step, metrics=model.metrics)
    agreement = export_model(of_run, name, tmp_path / "model", images)
    found = FORMATS[name].load(tmp_path / "model")(images[:3])
    np.testing.assert_allclose(found, of_run.predict(images[:3]), atol=0.05)
    assert np.abs(found - model.predict(images[:3])).max() > 10 * TOLERANCE  # of one version
    card = build_model_card(of_run, agreement, format_name=name, file_name="model", checked_on="random images")
    assert "of the run, which computes in bfloat16; the file was compared in float32." in card


def test_the_program_in_a_stablehlo_file(model: TrainedModel, images: np.ndarray, tmp_path: Path) -> None:
    pytest.importorskip("flatbuffers")
    export_model(model, "stablehlo", tmp_path / "model", images)
    exported = jax_export.deserialize(bytearray((tmp_path / "model").read_bytes()))
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert f" JAX {jax.__version__}, which exported it, or newer" in FORMATS["stablehlo"].interface
    assert str(exported.in_avals[0]) == "uint8[batch,28,28,1]"
    program = exported.mlir_module()
    convolutions = [line for line in program.splitlines() if "stablehlo.convolution" in line]
    assert len(convolutions) == 2 * 3
    assert all(line.count("HIGHEST") == 2 for line in convolutions)
    assert "custom_call" not in program.replace("stablehlo.custom_call @shape_assertion", "")
    assert "gather" not in program


def test_a_file_that_disagrees_with_the_model_is_deleted(
    model: TrainedModel, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = reference(model)
    for wrong in (lambda p: p + 2e-5, lambda p: p * np.nan, lambda p: p[:, ::-1]):
        altered = FORMATS["npz"]._replace(load=lambda path, wrong=wrong: lambda x: wrong(honest(x)))
        monkeypatch.setitem(FORMATS, "npz", altered)
        with pytest.raises(UserError, match=r"the reloaded npz file disagrees with the model: .* exported$"):
            export_model(model, "npz", tmp_path / "model.npz", images)
        assert list(tmp_path.iterdir()) == []


def test_an_extra_that_is_not_installed(
    model: TrainedModel, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxruntime" else find(name))
    message = "--to=onnx needs the extra 'export': pip install 'digits_jax[export]' or ./launch.sh setup export"
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        export_model(model, "onnx", tmp_path / "model.onnx", images)


@pytest.mark.parametrize(
    ("function", "operation"),
    [
        (lambda x: jnp.sin(x.astype(jnp.float32)).sum((1, 2)), "sin"),
        (lambda x: x.astype(jnp.float32).reshape(28 * x.shape[0], 28), "reshape"),
        (lambda x: x.astype(jnp.bfloat16), "convert_element_type"),
        (lambda x: x.astype(jnp.float32) * x.shape[0], "dim_as_value"),
        (lambda x: jax.lax.pad(x.astype(jnp.float32), 0.0, ((0, 0, 0), (0, 0, 1), (0, 0, 0), (0, 0, 0))), "pad"),
        (lambda x: jax.lax.rev(x.astype(jnp.float32), (1,)), "rev"),
        (lambda x: jax.lax.dot_general(x.astype(jnp.float32), jnp.ones((28, 2)), (((1,), (0,)), ((), ()))), "dot"),
        (
            lambda x: jax.lax.conv_general_dilated(
                x.astype(jnp.float32), jnp.ones((3, 3, 1, 2)), (1, 1), "VALID",
                rhs_dilation=(2, 2), dimension_numbers=("NHWC", "HWIO", "NHWC"),
            ),
            "conv",
        ),
    ],
)  # fmt: skip
def test_an_unsupported_operation(function: object, operation: str) -> None:
    pytest.importorskip("onnx")
    from digits_jax.apps.export.onnx_graph import to_onnx

    with pytest.raises(UserError, match=f"--to=onnx does not support the operation '{operation}"):
        to_onnx(function, (28, 28, 1))  # type: ignore[arg-type]


def test_a_module_that_needs_the_size_of_the_batch_is_refused_in_one_line(
    model: TrainedModel, images: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainedModel, "function", lambda *args, **options: lambda _, x: x.reshape(len(x), -1)[:, :10])
    with pytest.raises(UserError, match=r"^the model cannot be traced for --to=stablehlo .*x.shape\[0\] in it instead"):
        export_model(model, "stablehlo", tmp_path / "model", images)
    assert not list(tmp_path.iterdir())


def test_padding_strides_and_constants_of_a_graph(images: np.ndarray) -> None:
    pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    from digits_jax.apps.export.onnx_graph import to_onnx

    kernel = np.random.default_rng(0).standard_normal((3, 3, 1, 2)).astype(np.float32)

    def function(x: jax.Array) -> jax.Array:
        x = x.astype(jnp.float32) / 255 - jnp.mean(kernel)
        x = jax.lax.conv_general_dilated(
            x, kernel, (2, 3), [(1, 0), (2, 1)], dimension_numbers=("NHWC", "HWIO", "NHWC")
        )  # fmt: skip
        x = jax.lax.slice(x, (0, 1, 2, 0), (x.shape[0], 9, 9, 2), (1, 2, 1, 1))  # 4x7 of 14x10
        return jax.nn.relu(x.reshape(x.shape[0], -1) * 2) @ jnp.ones((4 * 7 * 2, 1)) * jnp.arange(3.0)[None]

    session = onnxruntime.InferenceSession(to_onnx(function, (28, 28, 1)))
    found = session.run(None, {"images": images})[0]
    np.testing.assert_allclose(found, jax.nn.softmax(function(jnp.asarray(images))), atol=1e-5)


def test_a_model_card(trained: Path, model: TrainedModel) -> None:
    agreement = Agreement(360, 1e-7, 0)
    card = build_model_card(model, agreement, format_name="onnx", file_name="m.onnx", checked_on="test images")
    result = json.loads((trained / "result.json").read_text())
    assert f"\n{result['best']['test/accuracy']:.2%} (95% interval " in card
    assert " on the 360 test images of optical_digits, " in card
    assert "ranks its epochs by this accuracy, which is therefore optimistic" in card
    assert result["dataset"]["sha256"] in card
    assert json.loads(card.partition("```json")[2].partition("```")[0])["config"] == result["config"]
    unscored = TrainedModel(model.run, model.variables, step=3, metrics={})
    card = build_model_card(unscored, agreement, format_name="onnx", file_name="m.onnx", checked_on="test images")
    assert "did not evaluate this step on the test images" in card


@pytest.mark.slow
def test_the_command(trained: Path, data_dir: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "digits_jax.apps.export", f"--workdir={trained}", f"--output={tmp_path}"]

    def run(*arguments: str, data: Path) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "TFDS_DATA_DIR": str(data)}
        return subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, timeout=120)

    found = run("--to=npz", data=data_dir)
    assert found.returncode == 0, found.stderr
    assert "on 360 test images of optical_digits: same predicted classes, probabilities within 0.0e+00" in found.stdout
    assert {path.suffix for path in tmp_path.iterdir()} == {".npz", ".md"}
    assert "on 1,000 random images" in run("--to=npz", data=tmp_path / "nothing").stdout
    for arguments, message in (
        ((), "--to is missing; for example --to=onnx"),
        (("--to=pmml",), "flag --to=pmml: value should be one of <stablehlo|onnx|npz>"),
    ):
        found = run(*arguments, data=data_dir)
        assert found.returncode == 2
        assert message in found.stderr
