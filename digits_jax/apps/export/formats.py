"""A trained model as one file that needs nothing of this project: StableHLO, ONNX, or its arrays.

The first two take raw uint8 pixels, any number of images at once, and return probabilities; the normalisation is
inside. All use XLA's own convolution or their runtime's, in float32 also where JAX would round to less.
"""

import importlib.util
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
from digits_jax.errors import UserError
from digits_jax.runs.trained_model import TrainedModel

Predict = Callable[[np.ndarray], np.ndarray]  # uint8 [N, H, W, C] to probabilities [N, num_classes]

PLATFORMS = ("cpu", "cuda", "tpu")
TOLERANCE = 1e-5  # of a probability, between an export and the model
_PART = 32  # images at a time: more of them are slower on a CPU, page faults take over


class Format(NamedTuple):
    """One kind of file."""

    packages: tuple[str, ...]  # that it needs, from the extra `export`
    encode: Callable[[TrainedModel], bytes]
    load: Callable[[Path], Predict]
    how_to_load: str  # three lines of Python, with the file's name as {file}


def _probabilities(model: TrainedModel) -> Callable[[Any, jax.Array], jax.Array]:
    logits = model.function()
    return ops.using("lax")(lambda variables, images: nn.softmax(logits(variables, images)))


def reference(model: TrainedModel) -> Predict:
    """What an export is compared with: the model itself, with XLA's own convolution and in float32."""
    predict = jax.jit(_probabilities(model))

    def in_float32(images: np.ndarray) -> np.ndarray:
        with jax.default_matmul_precision("float32"):
            return np.asarray(predict(model.variables, images))

    return in_float32


def _to_stablehlo(model: TrainedModel) -> bytes:
    probabilities = _probabilities(model)
    images = jax.ShapeDtypeStruct((*export.symbolic_shape("batch"), *model.image_shape), jnp.uint8)
    with jax.default_matmul_precision("float32"):
        exported = export.export(jax.jit(lambda x: probabilities(model.variables, x)), platforms=PLATFORMS)(images)
    return bytes(exported.serialize())


def _load_stablehlo(path: Path) -> Predict:
    call = jax.jit(export.deserialize(bytearray(path.read_bytes())).call)
    return lambda images: np.asarray(call(images))


def _to_onnx(model: TrainedModel) -> bytes:
    from digits_jax.apps.export.onnx_graph import to_onnx

    logits = ops.using("lax")(model.function())
    return to_onnx(lambda images: logits(model.variables, images), model.image_shape)


def _load_onnx(path: Path) -> Predict:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda images: session.run(["probabilities"], {"images": images})[0]


def _to_npz(model: TrainedModel) -> bytes:
    arrays = traverse_util.flatten_dict(model.variables, sep="/")
    run = {"config": model.run["config"], "image_shape": model.image_shape, "num_classes": model.num_classes}
    file = io.BytesIO()
    np.savez(file, run=np.array(json.dumps(run)), **arrays)
    return file.getvalue()


def _load_npz(path: Path) -> Predict:
    with np.load(path) as file:
        run = json.loads(str(file["run"]))
        arrays = traverse_util.unflatten_dict({name: file[name] for name in file.files if name != "run"}, sep="/")
    return reference(TrainedModel(run, {"batch_stats": {}, **arrays}, step=0, metrics={}))


FORMATS = {
    "stablehlo": Format(
        ("flatbuffers",),
        _to_stablehlo,
        _load_stablehlo,
        "import pathlib, jax.export  # needs flatbuffers too\n"
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
        'arrays = numpy.load("{file}")  # "params/...", "batch_stats/..." by their paths in the Flax model\n'
        'config = json.loads(str(arrays["run"]))["config"]',
    ),
}


class Agreement(NamedTuple):
    """How a loaded export compares with the model."""

    num_images: int
    difference: float  # the largest of a probability
    changed: int  # images whose most probable class is another


def compare(model: TrainedModel, predict: Predict, images: np.ndarray) -> Agreement:
    """Gives images `[N, H, W, C]` to both, the first one alone: any number of them has to do."""
    expected = reference(model)
    differences, changed = [0.0], 0
    for part in (images[:1], *(images[i : i + _PART] for i in range(1, len(images), _PART))):
        ours, theirs = expected(part), predict(part)
        differences.append(float(np.abs(ours - theirs).max()))
        changed += int((ours.argmax(-1) != theirs.argmax(-1)).sum())
    return Agreement(len(images), max(differences), changed)


def write(model: TrainedModel, name: str, path: Path, images: np.ndarray) -> Agreement:
    """Writes an export, reads it back and compares; a file that does not agree is not left behind.

    Args:
      model: what is exported.
      name: of a format in `FORMATS`.
      path: of the file.
      images: uint8 `[N, H, W, C]`, to compare on.

    Raises:
      UserError: a package is missing, the format cannot express the model, or the loaded file does not agree with it.
      OSError: the file cannot be written.
    """
    chosen = FORMATS[name]
    missing = [package for package in chosen.packages if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(f"--to={name} needs {' and '.join(missing)}: ./launch.sh setup export")
    temporary = path.with_name(path.name + ".tmp")
    try:
        temporary.write_bytes(chosen.encode(model))
        agreement = compare(model, chosen.load(temporary), images)
        if agreement.changed or not agreement.difference <= TOLERANCE:
            raise UserError(
                f"the loaded {name} file gives other answers than the model: probabilities differ by up to "
                f"{agreement.difference:.1e} (expected {TOLERANCE:.0e}), the class of {agreement.changed} of "
                f"{agreement.num_images:,} images is another; nothing was exported"
            )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return agreement
