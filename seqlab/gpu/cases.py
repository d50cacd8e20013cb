"""What `seqlab.gpu.bench` checks and times: a line per kernel, its reference, its peers, and the sizes.

Flops are those of the matrix products, two for a multiply-add; causal attention counts half the square. The least bytes
are not written down: they are those of the inputs and the outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache

import torch
import torch.nn.functional as F
from torch import randn

from seqlab import kernels
from seqlab.attention import attend
from seqlab.norm import rms_norm


def _plain(**size) -> float:
    return 0.0


@dataclass(frozen=True, eq=False)
class Case:
    """One kernel in one use. inputs, flops: functions of a size's names. checks: sizes that it must be right at; the
    first is run in the interpreter. sizes: those it is timed at. backward_flops: over the forward's. wide: the inputs,
    by number, that stay float32 in half precision."""

    kernel: str
    use: str
    function: Callable
    reference: Callable
    inputs: Callable
    checks: tuple[dict, ...]
    sizes: tuple[dict, ...]
    flops: Callable = _plain
    backward: bool = True
    backward_flops: float = 2.0
    wide: tuple[int, ...] = ()
    peers: dict[str, Callable] = field(default_factory=dict)

    def say(self, size: dict) -> str:
        return ", ".join(x for x in (self.use, " ".join(f"{name} {n}" for name, n in size.items())) if x)


def _compiled(function: Callable) -> Callable:
    """The same, by torch.compile, made when it is first called."""
    made = cache(lambda: torch.compile(function))
    return lambda *inputs: made()(*inputs)


# Attention


def _heads_first(function):
    """A peer that wants (B, H, T, K)."""
    return lambda *qkv: function(*(x.transpose(1, 2) for x in qkv)).transpose(1, 2)


def _sdpa(backend, causal):
    def attention(q, k, v):
        from torch.nn.attention import SDPBackend, sdpa_kernel

        with sdpa_kernel(getattr(SDPBackend, backend)):
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1])

    return _heads_first(attention)


def _flex(causal):
    @cache
    def made(T_q, T_k):
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        flex = torch.compile(flex_attention)
        mask = create_block_mask(lambda b, h, i, j: i >= j, None, None, T_q, T_k) if causal else None
        return lambda q, k, v: flex(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])

    return _heads_first(lambda q, k, v: made(q.shape[2], k.shape[2])(q, k, v))


def _flash_attn(causal):
    def attention(q, k, v):
        from flash_attn import flash_attn_func

        return flash_attn_func(q, k, v, causal=causal)

    return attention


def _attention_peers(causal):
    backends = {"PyTorch, flash": "FLASH_ATTENTION", "PyTorch, cuDNN": "CUDNN_ATTENTION"}
    backends["PyTorch, efficient"] = "EFFICIENT_ATTENTION"
    named = {name: _sdpa(backend, causal) for name, backend in backends.items()}
    return named | {"flex attention": _flex(causal), "flash-attn": _flash_attn(causal)}


def _qkv(B, T, H, K, h=None, T_q=None):
    return randn(B, T_q or T, H, K), randn(B, T, h or H, K), randn(B, T, h or H, K)


def _attention(causal):
    return Case(
        "flash_attention",
        "causal" if causal else "not causal",
        lambda q, k, v: kernels.flash_attention(q, k, v, causal=causal),
        lambda q, k, v: attend(q, k, v, causal=causal),
        _qkv,
        ({"B": 1, "T": 70, "H": 2, "K": 16, "h": 1}, {"B": 2, "T": 1000, "H": 4, "K": 128}),
        (
            *({"B": 16384 // T, "T": T, "H": 16, "K": 128} for T in (1024, 4096, 16384)),
            {"B": 4, "T": 4096, "H": 32, "K": 64},
            {"B": 4, "T": 4096, "H": 8, "K": 256},
        ),
        flops=lambda B, T, H, K: 4 * B * H * T * T * K / (2 if causal else 1),
        backward_flops=2.5,
        peers=_attention_peers(causal),
    )


_DECODE = Case(
    "flash_decode",
    "",
    lambda q, k, v: kernels.flash_decode(q, k, v, causal=True),
    lambda q, k, v: attend(q, k, v, causal=True),
    _qkv,
    ({"B": 1, "T": 300, "H": 4, "K": 16, "h": 2, "T_q": 1}, {"B": 4, "T": 3001, "H": 32, "K": 128, "h": 8, "T_q": 1}),
    tuple({"B": B, "T": T, "H": 32, "K": 128, "h": 8, "T_q": 1} for B, T in ((8, 8192), (8, 32768), (1, 131072))),
    flops=lambda B, T, H, K, h, T_q: 4 * B * H * T * T_q * K,
    backward=False,
    peers={name: f for name, f in _attention_peers(causal=False).items() if name != "flex attention"},
)

# Rows and plain products


def _softmax(x):
    return torch.softmax(x, -1)


_SOFTMAX = Case(
    "softmax",
    "",
    kernels.softmax,
    _softmax,
    lambda M, N: (randn(M, N),),
    ({"M": 5, "N": 37}, {"M": 700, "N": 5000}),
    tuple({"M": 8192, "N": N} for N in (1024, 4096, 16384)),
    peers={"PyTorch": _softmax, "torch.compile": _compiled(_softmax)},
)
_RMS_NORM = Case(
    "rms_norm",
    "",
    kernels.rms_norm,
    rms_norm,
    lambda M, D: (randn(M, D), randn(D)),
    ({"M": 5, "D": 37}, {"M": 700, "D": 4096}),
    tuple({"M": 16384, "D": D} for D in (1024, 4096, 8192)),
    peers={
        "PyTorch": lambda x, weight: F.rms_norm(x, x.shape[-1:], weight, 1e-6),
        "torch.compile": _compiled(rms_norm),
        "plain PyTorch": rms_norm,
    },
)
_MATMUL = Case(
    "matmul",
    "",
    kernels.matmul,
    torch.matmul,
    lambda M, N, K: (randn(M, K), randn(K, N)),
    ({"M": 40, "N": 20, "K": 30}, {"M": 700, "N": 300, "K": 900}),
    tuple({"M": n, "N": n, "K": n} for n in (2048, 4096, 8192)),
    flops=lambda M, N, K: 2 * M * N * K,
    peers={"PyTorch": torch.matmul},
)

CASES = (_SOFTMAX, _RMS_NORM, _MATMUL, _attention(True), _attention(False), _DECODE)
