"""Pure tensor functions that run as one compiled kernel on a GPU, and as written everywhere else.

Between matrix products a decoder layer moves the same activations through memory again and again: a norm in
separate kernels reads and writes them ten times, in one kernel twice. `torch.compile` makes that one kernel.
Each function here is pure and has its backward pass written beside it, so that the CPU can check both against
float64.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch

from gmpo_mm.errors import ConfigError


class Fused:
    """A function of tensors that is compiled for tensors on a GPU when `Fused.compiles` is true."""

    compiles = True
    """`worker.actor.use_torch_compile`."""
    device_type = "cuda"
    """Where functions are compiled; a test lets the CPU be traced as well."""
    observer: Callable[[Callable[..., Any], tuple[Any, ...]], Any] | None = None
    """Called in place of the function while a plan counts memory and operators: what runs here is one
    kernel."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, *args: Any) -> Any:
        if Fused.observer is not None:
            return Fused.observer(self.function, args)
        on_device = any(isinstance(x, torch.Tensor) and x.device.type == Fused.device_type for x in args)
        if not (Fused.compiles and on_device):
            return self.function(*args)
        args = tuple(for_compiler(x) if isinstance(x, torch.Tensor) else x for x in args)
        if self._compiled is None:
            self._compiled = torch.compile(self.function, fullgraph=True)
            return self._first_call(*args)
        return self._compiled(*args)

    def _first_call(self, *args: Any) -> Any:
        assert self._compiled is not None
        try:
            return self._compiled(*args)
        except torch.OutOfMemoryError:
            raise
        except (
            Exception
        ) as error:  # a missing compiler, a Triton that does not fit: anything can come out of there
            self._compiled = None
            raise ConfigError(
                f"worker.actor.use_torch_compile=true: {self.function.__name__} can't be compiled here "
                f"({type(error).__name__}: {error}); set it to false, which is slower, or install a C compiler "
                "and the Triton that belongs to this torch"
            ) from error


def for_compiler(x: torch.Tensor) -> torch.Tensor:
    """The same numbers, marked so that few versions of a function are compiled: its limit is 8, beyond which
    it fails.

    A bare tensor: there would be versions for views and for tensors that need gradients, and a 16-bit
    parameter whose gradient is float32 is refused. Rows of any number are one version from the start; a row's
    length is a constant of each.
    """
    x = x.data
    if x.dim() > 1:
        torch._dynamo.mark_static(x, x.dim() - 1)
        for axis in range(x.dim() - 1):
            if x.shape[axis] != 1:
                torch._dynamo.maybe_mark_dynamic(x, axis)
    return x


@contextmanager
def observed(observer: Callable[[Callable[..., Any], tuple[Any, ...]], Any]) -> Any:
    """Hand every fused call to `observer(function, args)`, which returns its result."""
    former, Fused.observer = Fused.observer, observer
    try:
        yield
    finally:
        Fused.observer = former


def wide(x: torch.Tensor) -> torch.Tensor:
    """At least float32."""
    return x if x.dtype == torch.float64 else x.float()


# ---- RMS norm ----------------------------------------------------------------------------------------------


@Fused
def _norm(x: torch.Tensor, weight_C: torch.Tensor, epsilon: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Normalised x, and 1 / RMS of each row."""
    rows = wide(x)
    scale = torch.rsqrt(rows.square().mean(-1, keepdim=True) + epsilon)
    return weight_C * (rows * scale).to(x.dtype), scale


@Fused
def _norm_input_grad(
    grad: torch.Tensor, x: torch.Tensor, weight_C: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """dx = scale * (g w - x^ mean(g w x^)), x^ = x scale."""
    unit = wide(x) * scale
    weighted = wide(grad) * wide(weight_C)
    return (scale * (weighted - unit * (weighted * unit).mean(-1, keepdim=True))).to(x.dtype)


@Fused
def _norm_weight_grad(grad: torch.Tensor, x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """dw = sum over rows of g x^, in float32."""
    return (wide(grad) * (wide(x) * scale)).flatten(0, -2).sum(0)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight_C: torch.Tensor, epsilon: float) -> torch.Tensor:
        normed, scale = _norm(x, weight_C, epsilon)
        ctx.save_for_backward(x, weight_C, scale)
        return normed

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:  # type: ignore[override]
        x, weight_C, scale = ctx.saved_tensors
        dx = _norm_input_grad(grad, x, weight_C, scale) if ctx.needs_input_grad[0] else None
        dw = _norm_weight_grad(grad, x, scale) if ctx.needs_input_grad[1] else None
        return dx, dw, None


def rms_norm(x: torch.Tensor, weight_C: torch.Tensor, epsilon: float) -> torch.Tensor:
    """`weight * x / sqrt(mean(x^2) + epsilon)` over the last axis (arXiv 1910.07467), the mean in float32 or
    better."""
    return _RMSNorm.apply(x, weight_C, epsilon)


# ---- SwiGLU ------------------------------------------------------------------------------------------------


@Fused
def _gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    return (torch.nn.functional.silu(wide(gate)) * wide(up)).to(gate.dtype)


@Fused
def _gated_grad(
    grad: torch.Tensor, gate: torch.Tensor, up: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """With s = sigmoid(gate): d gate = g up s (1 + gate (1 - s)), d up = g gate s."""
    g, x = wide(grad), wide(gate)
    s = torch.sigmoid(x)
    return (g * wide(up) * s * (1 + x * (1 - s))).to(gate.dtype), (g * x * s).to(up.dtype)


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(gate, up)
        return _gated(gate, up)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:  # type: ignore[override]
        return _gated_grad(grad, *ctx.saved_tensors)


def swiglu(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """`silu(gate) * up` (arXiv 2002.05202)."""
    return _SwiGLU.apply(gate, up)


# ---- rotary positions --------------------------------------------------------------------------------------


@Fused
def _rotated(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotate pairs (i, i + D/2) of the last axis by the angle of these cosines and sines."""
    cos, sin = wide(cos), wide(sin)

    def turn(x: torch.Tensor) -> torch.Tensor:
        first, second = wide(x).chunk(2, -1)
        half = cos.shape[-1] // 2
        low = first * cos[..., :half] - second * sin[..., :half]
        high = second * cos[..., half:] + first * sin[..., half:]
        return torch.cat([low, high], -1).to(x.dtype)

    return turn(q), turn(k)


class _Rotary(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
    ) -> tuple:
        ctx.save_for_backward(cos, sin)
        return _rotated(q, k, cos, sin)

    @staticmethod
    def backward(ctx: Any, grad_q: torch.Tensor, grad_k: torch.Tensor) -> tuple:  # type: ignore[override]
        cos, sin = ctx.saved_tensors
        # the transpose of a rotation turns back; both halves of cos and sin hold the same angles
        return *_rotated(grad_q, grad_k, cos, -sin), None, None


def rotary(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Rotary embeddings (arXiv 2104.09864) of queries and keys (..., D); `cos` and `sin` hold each angle
    twice."""
    return _Rotary.apply(q, k, cos, sin)
