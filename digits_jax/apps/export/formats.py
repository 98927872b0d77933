"""Export of a trained model to one file that does not need this project: StableHLO, ONNX, or NumPy arrays.

StableHLO and ONNX map raw uint8 pixels, in batches of any size, to probabilities, normalization included. Both compute
in float32, also where JAX's default precision is lower, with XLA's own convolution or their runtime's.
"""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util
from jax import export

from digits_jax import ops
from digits_jax.apps.extras import require_extra
from digits_jax.errors import UserError
from digits_jax.runs.trained_model import TrainedModel

Predict = Callable[[np.ndarray], np.ndarray]  # uint8 [N, H, W, C] to probabilities [N, num_classes]

TOLERANCE = 1e-5  # largest difference of a probability between an exported file and the model
_BATCH_SIZE = 32  # larger batches are slower on a CPU, which then spends its time on page faults


class Format(NamedTuple):
    """A file format."""

    packages: tuple[str, ...]  # required packages of the extra `export`
    encode: Callable[[TrainedModel], bytes]
    load: Callable[[Path], Predict]
    usage: str  # three lines of Python, with the file's name as {file}


def _probabilities(model: TrainedModel) -> Callable[[Any, jax.Array], jax.Array]:
    logits = model.function()
    return ops.using("lax")(lambda variables, images: nn.softmax(logits(variables, images)))


def reference(model: TrainedModel) -> Predict:
    """Returns the model's `predict` in float32 with XLA's own convolution, against which an export is checked."""
    predict = jax.jit(_probabilities(model))

    def in_float32(images: np.ndarray) -> np.ndarray:
        with jax.default_matmul_precision("float32"):
            return np.asarray(predict(model.variables, images))

    return in_float32


def _to_stablehlo(model: TrainedModel) -> bytes:
    probabilities = _probabilities(model)
    images = jax.ShapeDtypeStruct((*export.symbolic_shape("batch"), *model.image_shape), jnp.uint8)
    function = jax.jit(lambda images: probabilities(model.variables, images))
    with jax.default_matmul_precision("float32"):
        return bytes(export.export(function, platforms=("cpu", "cuda", "tpu"))(images).serialize())


def _load_stablehlo(path: Path) -> Predict:
    call = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    return lambda images: np.asarray(call(images))


def _to_onnx(model: TrainedModel) -> bytes:
    from digits_jax.apps.export.onnx_graph import to_onnx

    logits = model.function()
    return to_onnx(ops.using("lax")(lambda images: logits(model.variables, images)), model.image_shape)


def _load_onnx(path: Path) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"images": images})[0]


def _to_npz(model: TrainedModel) -> bytes:
    run = {"config": model.run["config"], "image_shape": model.image_shape, "num_classes": model.num_classes}
    file = io.BytesIO()
    np.savez(file, run=np.array(json.dumps(run)), **traverse_util.flatten_dict(model.variables, sep="/"))
    return file.getvalue()


def _load_npz(path: Path) -> Predict:
    with np.load(path) as file:
        run = json.loads(str(file["run"]))
        variables = traverse_util.unflatten_dict({name: file[name] for name in file.files if name != "run"}, sep="/")
    return reference(TrainedModel(run, {"batch_stats": {}, **variables}, step=0, metrics={}))


FORMATS = {
    "stablehlo": Format(
        ("flatbuffers",),
        _to_stablehlo,
        _load_stablehlo,
        "import pathlib, jax.export  # also needs flatbuffers\n"
        'exported = jax.export.deserialize(bytearray(pathlib.Path("{file}").read_bytes()))\n'
        "probabilities = exported.call(images)",
    ),
    "onnx": Format(
        ("onnx", "onnxruntime"),
        _to_onnx,
        _load_onnx,
        "import onnxruntime\n"
        'session = onnxruntime.InferenceSession("{file}")\n'
        'probabilities = session.run(["probabilities"], {{"images": images}})[0]',
    ),
    "npz": Format(
        (),
        _to_npz,
        _load_npz,
        "import json, numpy\n"
        'arrays = numpy.load("{file}")  # named by their paths in the Flax model: "params/...", "batch_stats/..."\n'
        'config = json.loads(str(arrays["run"]))["config"]',
    ),
}


class Agreement(NamedTuple):
    """The differences between an exported file and the model."""

    num_images: int
    difference: float  # largest difference of a probability
    changed: int  # number of images with another predicted class


def export_model(model: TrainedModel, format_name: str, path: Path, images: np.ndarray) -> Agreement:
    """Exports a model, reloads the file, and moves it into place if its predictions agree with the model's.

    They are compared on uint8 images `[N, H, W, C]`, in batches of one image and of several. `format_name` is a key of
    `FORMATS`.

    Raises:
      UserError: a package is missing, the format cannot express the model, or the predictions do not agree.
      OSError: the file cannot be written.
    """
    chosen = FORMATS[format_name]
    require_extra("export", chosen.packages, needed_by=f"--to={format_name}")
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(chosen.encode(model))
        agreement = _compare(reference(model), chosen.load(temporary), images)
        if agreement.changed or not agreement.difference <= TOLERANCE:  # "not": the difference may be nan
            raise UserError(
                f"the reloaded {format_name} file disagrees with the model: probabilities differ by up to "
                f"{agreement.difference:.1e} (expected {TOLERANCE:.0e}), the predicted class of {agreement.changed} of "
                f"{agreement.num_images:,} images differs; nothing was exported"
            )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return agreement


def _compare(expected: Predict, actual: Predict, images: np.ndarray) -> Agreement:
    batches = [images[:1], *(images[i : i + _BATCH_SIZE] for i in range(1, len(images), _BATCH_SIZE))]
    a, b = (np.concatenate([predict(batch) for batch in batches]) for predict in (expected, actual))
    return Agreement(len(images), float(np.abs(a - b).max()), int((a.argmax(-1) != b.argmax(-1)).sum()))
