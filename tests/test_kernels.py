"""The selection of kernels: nested, by thread, by backend, and for kernels that are vmapped."""

from concurrent.futures import ThreadPoolExecutor

import jax
import pytest

from digits_jax import ops
from digits_jax.ops.kernels import selected


@pytest.mark.parametrize(("backend", "alone", "vmapped"), [("cpu", "winograd", "winograd"), ("gpu", "lax", "matmul")])
def test_auto_depends_on_the_backend_and_on_vmap(
    monkeypatch: pytest.MonkeyPatch, backend: str, alone: str, vmapped: str
) -> None:
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert selected() == alone
    with ops.using("auto"):
        assert selected() == alone
    with ops.using("auto", vmapped=True):
        assert selected() == vmapped
    with ops.using("lax", vmapped=True):
        assert selected() == "lax"


def test_the_innermost_context_counts() -> None:
    with ops.using("lax"):
        with ops.using("matmul"):
            assert selected() == "matmul"
        assert selected() == "lax"
        assert ops.using("winograd")(selected)() == "winograd"  # as a decorator
        with ThreadPoolExecutor() as pool:
            assert pool.submit(selected).result() == "winograd"  # the default on a CPU
    assert selected() == "winograd"


def test_an_error_ends_it() -> None:
    @ops.using("lax")
    def fail() -> None:
        raise ArithmeticError

    with pytest.raises(ArithmeticError):
        fail()
    assert selected() == "winograd"


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="kernels is 'fft': expected one of auto, winograd, matmul, lax"):
        ops.using("fft").__enter__()
