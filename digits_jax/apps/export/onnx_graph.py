"""Conversion of a JAX function of images to an ONNX graph, one node per operation that depends on the images.

Operations on parameters alone are folded into constants. Operations that this project's models do not use are refused
by name. Operators: https://onnx.ai/onnx/operators.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import onnx
from jax import export
from jax.extend.core import Jaxpr, Literal
from onnx import TensorProto, helper, numpy_helper

from digits_jax.errors import UserError

_OPSET, _IR_VERSION = 17, 8  # of 2022, so that any current runtime reads them

_BINARY = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max"}
_CHANNELS_LAST = {
    "dimension_numbers": jax.lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2)),
    "lhs_dilation": (1, 1), "rhs_dilation": (1, 1), "feature_group_count": 1, "batch_group_count": 1,
}  # fmt: skip
_CALLS = {"jit": "jaxpr", "pjit": "jaxpr", "custom_jvp_call": "call_jaxpr"}


def to_onnx(logits: Callable, image_shape: tuple[int, ...], versions: Callable | None = None) -> bytes:
    """Converts to a serialized model that maps `images`, uint8 `[batch, H, W, C]`, to `probabilities`, the softmax.

    With `versions`, of `TEST_TIME_AUGMENTATIONS`, they are the mean over the versions of an image. Raises a UserError
    if a function contains an unsupported operation.
    """
    images = jax.ShapeDtypeStruct((*export.symbolic_shape("batch"), *image_shape), jnp.uint8)
    closed = jax.make_jaxpr(logits)(images)
    shape = ["batch", closed.out_avals[0].shape[-1]]
    graph, batch, count = _Graph(), "images", 1
    if versions:
        traced = jax.make_jaxpr(versions)(images)
        names = graph.translate(traced.jaxpr, traced.consts, ["images"])
        batch, count = graph._add("Concat", *names, axis=0), len(names)
    result = graph._add("Softmax", graph.translate(closed.jaxpr, closed.consts, [batch])[0], axis=-1)
    if versions:
        graph._add("ReduceMean", graph._add("Reshape", result, np.array([count, -1, shape[1]])), axes=[0], keepdims=0)
    graph.nodes[-1].output[0] = "probabilities"
    inputs = [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *image_shape])]
    outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, shape)]
    onnx_graph = helper.make_graph(graph.nodes, "digits_jax", inputs, outputs, graph.constants)
    opsets = [helper.make_opsetid("", _OPSET)]
    model = helper.make_model(onnx_graph, producer_name="digits_jax", ir_version=_IR_VERSION, opset_imports=opsets)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


class _Graph:
    """The nodes and constants so far. A value that depends on the images is its name, any other an array."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def translate(self, jaxpr: Jaxpr, consts: Any, arguments: list[Any]) -> list[Any]:
        """Adds the nodes of a function and returns the values of its results."""
        values: dict[Any, Any] = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *arguments], strict=True))

        def read(v: Any) -> Any:
            return np.asarray(v.val, v.aval.dtype) if isinstance(v, Literal) else values[v]  # type: ignore[attr-defined]

        for equation in jaxpr.eqns:
            inputs = [read(v) for v in equation.invars]
            name, parameters = equation.primitive.name, equation.params
            if name in _CALLS:
                inner = parameters[_CALLS[name]]
                outputs = self.translate(inner.jaxpr, inner.consts, inputs)
            elif not any(isinstance(value, str) for value in inputs) and name != "dim_as_value":  # the batch size
                bound = equation.primitive.bind(*inputs, **parameters)
                outputs = bound if equation.primitive.multiple_results else [bound]
            else:
                outputs = [self._node_of(name, inputs, equation)]
            values.update(zip(equation.outvars, outputs, strict=True))
        return [read(v) for v in jaxpr.outvars]

    def _node_of(self, name: str, inputs: list[Any], equation: Any) -> str:
        parameters = equation.params
        if name in _BINARY:
            return self._add(_BINARY[name], *inputs)
        if name == "convert_element_type" and parameters["new_dtype"] == jnp.float32:
            return self._add("Cast", *inputs, to=TensorProto.FLOAT)
        if name == "reshape" and parameters["dimensions"] is None and _keeps_batch(equation):
            return self._add("Reshape", *inputs, np.array([-1, *parameters["new_sizes"][1:]]))
        if name == "slice" and _keeps_batch(equation):
            start, stop = (np.array(parameters[key][1:]) for key in ("start_indices", "limit_indices"))
            strides = np.array((parameters["strides"] or (1,) * (1 + len(start)))[1:])
            return self._add("Slice", *inputs, start, stop, np.arange(1, 1 + len(start)), strides)
        if name == "pad" and _keeps_batch(equation) and not any(inner for *_, inner in parameters["padding_config"]):
            return self._add("Pad", inputs[0], np.array(parameters["padding_config"])[:, :2].T.reshape(-1), inputs[1])
        is_matrix = all(v.aval.ndim == 2 for v in equation.invars)
        if name == "dot_general" and is_matrix and parameters["dimension_numbers"] == (((1,), (0,)), ((), ())):
            return self._add("MatMul", *inputs)
        if name == "conv_general_dilated" and all(parameters[key] == value for key, value in _CHANNELS_LAST.items()):
            return self._conv(inputs[0], inputs[1], parameters)
        raise UserError(f"--to=onnx does not support the operation {name!r} as this model uses it: try --to=stablehlo")

    def _conv(self, images: str, kernel: Any, parameters: dict[str, Any]) -> str:
        """Adds a convolution with its channels first, as ONNX has it; the runtime removes transposes that cancel."""
        (top, bottom), (left, right) = parameters["padding"]
        channels_first = self._add("Transpose", images, perm=(0, 3, 1, 2)), np.transpose(kernel, (3, 2, 0, 1))
        pads, strides = (top, left, bottom, right), parameters["window_strides"]
        return self._add("Transpose", self._add("Conv", *channels_first, strides=strides, pads=pads), perm=(0, 2, 3, 1))

    def _add(self, operator: str, *inputs: Any, **attributes: Any) -> str:
        names, result = list(inputs), f"{operator}_{len(self.nodes)}"
        for i, value in enumerate(inputs):
            if not isinstance(value, str):
                names[i] = f"constant_{len(self.constants)}"
                self.constants.append(numpy_helper.from_array(np.asarray(value), names[i]))
        self.nodes.append(helper.make_node(operator, names, [result], **attributes))
        return result


def _keeps_batch(equation: Any) -> bool:
    """Returns whether the first dimension is the batch before and after."""
    before, after = (v.aval.shape[0] for v in (equation.invars[0], equation.outvars[0]))
    return export.is_symbolic_dim(before) and before == after
