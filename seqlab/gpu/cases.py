"""What `seqlab.gpu.bench` checks and times: each kernel, its reference, its peers and its sizes.

Flops are those of the matrix products, two for a multiply-add; causal attention counts half the
square. The least bytes are not written down: they are those of the inputs and the outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, randn

# The folder kernels/ is installed as seqlab.kernels, which pyright cannot see.
from seqlab import kernels  # pyright: ignore[reportAttributeAccessIssue]
from seqlab.core.attention import attend
from seqlab.core.convolution import causal_conv
from seqlab.core.recurrence import chunkwise
from seqlab.core.scan import linear_scan
from seqlab.ffn import routers
from seqlab.ffn.routers import Routing
from seqlab.layers.norm import rms_norm
from seqlab.mixers.mamba import selective_scan

Size = dict[str, int]


def _sizes(names: str, *shapes: tuple[int, ...]) -> tuple[Size, ...]:
    return tuple(dict(zip(names.split(), shape, strict=True)) for shape in shapes)


def _no_flops(**size: int) -> float:
    return 0.0


@dataclass(frozen=True, eq=False)
class Case:
    """One kernel in one use.

    inputs and flops are functions of a size. checks: the sizes at which the kernel must be right;
    the first is the one for the interpreter. sizes: those that are timed. backward_flops: over the
    forward's. wide: the indices of inputs that stay float32 in half precision. peers give the same
    answer; those in `beside` take the same inputs, give another, and are there for their times.
    """

    kernel: str
    use: str
    function: Callable
    reference: Callable
    inputs: Callable
    checks: tuple[Size, ...]
    sizes: tuple[Size, ...]
    flops: Callable[..., float] = _no_flops
    backward: bool = True
    backward_flops: float = 2.0
    wide: tuple[int, ...] = ()
    peers: dict[str, Callable] = field(default_factory=dict)
    beside: dict[str, Callable] = field(default_factory=dict)

    def say(self, size: Size) -> str:
        numbers = " ".join(f"{name} {n}" for name, n in size.items())
        return f"{self.use}, {numbers}" if self.use else numbers


def _compiled(function: Callable) -> Callable:
    """The same function by torch.compile, which is called on first use."""
    made = cache(lambda: torch.compile(function))
    return lambda *inputs: made()(*inputs)


def _imported(module: str, name: str) -> Callable:
    """A function of another package, imported on use; without that package, ImportError."""
    return getattr(import_module(module), name)


# Attention


def _heads_first(function: Callable) -> Callable:
    """A peer that wants (B, H, T, K)."""
    return lambda *qkv: function(*(x.transpose(1, 2) for x in qkv)).transpose(1, 2)


def _sdpa(backend: str, causal: bool) -> Callable:
    def attention(q, k, v):
        from torch.nn.attention import SDPBackend, sdpa_kernel

        grouped = q.shape[1] != k.shape[1]
        with sdpa_kernel(getattr(SDPBackend, backend)):
            return F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=grouped)

    return _heads_first(attention)


def _not_later(b, h, i, j):
    return i >= j


def _flex(causal: bool) -> Callable:
    @cache
    def made(T_q: int, T_k: int) -> Callable:
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        flex: Any = torch.compile(flex_attention)
        mask = create_block_mask(_not_later, None, None, T_q, T_k) if causal else None
        return lambda q, k, v: flex(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])

    def attention(q, k, v):
        return made(q.shape[2], k.shape[2])(q, k, v)

    return _heads_first(attention)


def _flash_attn(causal: bool) -> Callable:
    def attention(q, k, v):
        return _imported("flash_attn", "flash_attn_func")(q, k, v, causal=causal)

    return attention


def _attention_peers(causal: bool) -> dict[str, Callable]:
    return {
        "PyTorch, flash": _sdpa("FLASH_ATTENTION", causal),
        "PyTorch, cuDNN": _sdpa("CUDNN_ATTENTION", causal),
        "PyTorch, efficient": _sdpa("EFFICIENT_ATTENTION", causal),
        "flex attention": _flex(causal),
        "flash-attn": _flash_attn(causal),
    }


def _qkv(B, T, H, K, h=None, T_q=None):
    return randn(B, T_q or T, H, K), randn(B, T, h or H, K), randn(B, T, h or H, K)


def _attention(causal: bool) -> Case:
    def flops(B, T, H, K, h=None):
        return 4 * B * H * T * T * K / (2 if causal else 1)

    return Case(
        kernel="flash_attention",
        use="causal" if causal else "not causal",
        function=lambda q, k, v: kernels.flash_attention(q, k, v, causal=causal),
        reference=lambda q, k, v: attend(q, k, v, causal=causal),
        inputs=_qkv,
        checks=({"B": 1, "T": 70, "H": 2, "K": 16, "h": 1}, {"B": 2, "T": 1000, "H": 4, "K": 128}),
        sizes=_sizes(
            "B T H K",
            (16, 1024, 16, 128),
            (4, 4096, 16, 128),
            (1, 16384, 16, 128),
            (4, 4096, 32, 64),
            (4, 4096, 8, 256),
        ),
        flops=flops,
        backward_flops=2.5,
        peers=_attention_peers(causal),
    )


def _decode_peers() -> dict[str, Callable]:
    peers = _attention_peers(causal=False)
    del peers["flex attention"]
    return peers


_DECODE = Case(
    kernel="flash_decode",
    use="",
    function=lambda q, k, v: kernels.flash_decode(q, k, v, causal=True),
    reference=lambda q, k, v: attend(q, k, v, causal=True),
    inputs=_qkv,
    checks=_sizes("B T H K h T_q", (1, 300, 4, 16, 2, 1), (4, 3001, 32, 128, 8, 1)),
    sizes=_sizes(
        "B T H K h T_q",
        (8, 8192, 32, 128, 8, 1),
        (8, 32768, 32, 128, 8, 1),
        (1, 131072, 32, 128, 8, 1),
    ),
    flops=lambda B, T, H, K, h, T_q: 4 * B * H * T * T_q * K,
    backward=False,
    peers=_decode_peers(),
)

# Rows and plain products


def _softmax(x):
    return torch.softmax(x, -1)


_SOFTMAX = Case(
    kernel="softmax",
    use="",
    function=kernels.softmax,
    reference=_softmax,
    inputs=lambda M, N: (randn(M, N),),
    checks=_sizes("M N", (5, 37), (700, 5000)),
    sizes=_sizes("M N", (8192, 1024), (8192, 4096), (8192, 16384)),
    peers={"PyTorch": _softmax, "torch.compile": _compiled(_softmax)},
)
_RMS_NORM = Case(
    kernel="rms_norm",
    use="",
    function=kernels.rms_norm,
    reference=rms_norm,
    inputs=lambda M, D: (randn(M, D), randn(D)),
    checks=_sizes("M D", (5, 37), (700, 4096)),
    sizes=_sizes("M D", (16384, 1024), (16384, 4096), (16384, 8192)),
    peers={
        "PyTorch": lambda x, weight: F.rms_norm(x, x.shape[-1:], weight, 1e-6),
        "torch.compile": _compiled(rms_norm),
        "plain PyTorch": rms_norm,
    },
)
_MATMUL = Case(
    kernel="matmul",
    use="",
    function=kernels.matmul,
    reference=torch.matmul,
    inputs=lambda M, N, K: (randn(M, K), randn(K, N)),
    checks=_sizes("M N K", (40, 20, 30), (700, 300, 900)),
    sizes=_sizes("M N K", (2048, 2048, 2048), (4096, 4096, 4096), (8192, 8192, 8192)),
    flops=lambda M, N, K: 2 * M * N * K,
    peers={"PyTorch": torch.matmul},
)

# Recurrences. A chunk of 64 costs the pairs of its lower half, and the state twice.
# The shapes are those of fla's own benchmark.

CHUNK = 64
SHAPES = _sizes(
    "B T H K",
    (1, 8192, 96, 128),
    (2, 16384, 16, 128),
    (4, 2048, 16, 128),
    (4, 4096, 64, 64),
    (8, 2048, 32, 256),
    (8, 1024, 8, 64),
)
_SMALL = _sizes("B T H K", (1, 70, 2, 16), (2, 1000, 4, 64))


def _chunk_flops(B, T, H, K):
    return B * T * H * (2 * CHUNK * K + 4 * K * K)


def _decay(*shape):
    """log sigmoid of noise, at least -5 as in fla's own benchmark."""
    return F.logsigmoid(randn(*shape)).clamp(min=-5.0)


def _no_decay(B, T, H, K):
    return randn(B, T, H, K) * K**-0.5, randn(B, T, H, K), randn(B, T, H, K)


def _decay_by_head(B, T, H, K):
    return *_no_decay(B, T, H, K), _decay(B, T, H, 1)


def _decay_by_channel(B, T, H, K):
    return *_no_decay(B, T, H, K), _decay(B, T, H, K)


def _delta_inputs(B, T, H, K):
    q, k, v = _no_decay(B, T, H, K)
    return q, F.normalize(k, dim=-1), v, torch.sigmoid(randn(B, T, H))


def _gated_delta_inputs(B, T, H, K):
    return *_delta_inputs(B, T, H, K), _decay(B, T, H, 1)


def _fla_simple_gla(q, k, v, log_a):
    chunk_simple_gla = _imported("fla.ops.simple_gla", "chunk_simple_gla")
    return chunk_simple_gla(q, k, v, log_a[..., 0], scale=1.0)[0]


def _fla_linear(q, k, v):
    return _imported("fla.ops.simple_gla", "chunk_simple_gla")(q, k, v, scale=1.0)[0]


def _fla_gla(q, k, v, log_a):
    return _imported("fla.ops.gla", "chunk_gla")(q, k, v, log_a, scale=1.0)[0]


def _fla_delta(q, k, v, beta):
    return _imported("fla.ops.delta_rule", "chunk_delta_rule")(q, k, v, beta, scale=1.0)[0]


def _fla_gated_delta(q, k, v, beta, log_a):
    chunk_gated_delta_rule = _imported("fla.ops.gated_delta_rule", "chunk_gated_delta_rule")
    return chunk_gated_delta_rule(q, k, v, log_a[..., 0], beta, scale=1.0)[0]


def _mamba2(q, k, v, log_a):
    """With A = -1 the step Δ is -log a. Mamba-2 would also scale the write by Δ, hence v / Δ."""
    scan = _imported("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined")
    dt = -log_a[..., 0]
    A = log_a.new_full((q.shape[2],), -1.0)
    return scan((v / dt[..., None]).to(v), dt, A, k, q, chunk_size=256)


def _recurrence(use: str, inputs: Callable, peers: dict[str, Callable]) -> Case:
    return Case(
        kernel="chunk_recurrence",
        use=use,
        function=lambda q, k, v, log_a=None: kernels.chunk_recurrence(q, k, v, log_a=log_a)[0],
        reference=lambda q, k, v, log_a=None: chunkwise(q, k, v, log_a=log_a)[0],
        inputs=inputs,
        checks=_SMALL,
        sizes=SHAPES,
        flops=_chunk_flops,
        backward_flops=2.5,
        wide=(3,),  # the decay, if there is one
        peers=peers,
    )


def _delta_kernel(q, k, v, beta, log_a=None):
    return kernels.chunk_delta(q, k, v, beta=beta, log_a=log_a)[0]


def _delta_reference(q, k, v, beta, log_a=None):
    return chunkwise(q, k, v, beta=beta, log_a=log_a)[0]


def _delta(use: str, inputs: Callable, peer: Callable) -> Case:
    return Case(
        kernel="chunk_delta",
        use=use,
        function=_delta_kernel,
        reference=_delta_reference,
        inputs=inputs,
        checks=_SMALL,
        sizes=SHAPES,
        flops=lambda B, T, H, K: 2 * _chunk_flops(B, T, H, K),
        wide=(4,),  # the decay, if there is one; q, k, v and beta have one type
        peers={"fla": peer},
    )


_SAME_TOKENS = _sizes(
    "B T H K",
    (32, 1024, 16, 128),
    (16, 2048, 16, 128),
    (8, 4096, 16, 128),
    (4, 8192, 16, 128),
    (2, 16384, 16, 128),
)
_BESIDE_ATTENTION = replace(
    _recurrence("no decay, beside attention", _no_decay, peers={}),
    sizes=_SAME_TOKENS,
    beside={"seqlab, attention": _attention(True).function, **_attention_peers(causal=True)},
)
_RECURRENCES = (
    _recurrence("no decay", _no_decay, {"fla": _fla_linear}),
    _recurrence("a decay per head", _decay_by_head, {"fla": _fla_simple_gla, "mamba-ssm": _mamba2}),
    _recurrence("a decay per channel", _decay_by_channel, {"fla": _fla_gla}),
    _BESIDE_ATTENTION,
    _delta("beta", _delta_inputs, _fla_delta),
    _delta("beta and a decay per head", _gated_delta_inputs, _fla_gated_delta),
)

# Scans and convolutions: no matrix products


def _fla_hgrn(a, b):
    return _imported("fla.ops.hgrn", "chunk_hgrn")(b, a.log())[0]


def _mamba(x, dt, A, B, C):
    scan = _imported("mamba_ssm.ops.selective_scan_interface", "selective_scan_fn")
    x, dt, B, C = (u.mT.contiguous() for u in (x, dt, B, C))
    return scan(x, dt, A, B, C).mT


def _causal_conv1d(x, weight, bias):
    return _imported("causal_conv1d", "causal_conv1d_fn")(x.mT, weight, bias).mT


def _torch_conv(x, weight, bias):
    W = weight.shape[-1]
    return F.conv1d(F.pad(x.mT, (W - 1, 0)), weight[:, None], bias, groups=x.shape[-1]).mT


def _selective_inputs(B, T, E, N):
    x, dt = randn(B, T, E), F.softplus(randn(B, T, E) - 4)
    A = -torch.arange(1.0, N + 1).repeat(E, 1)
    return x, dt, A, randn(B, T, N), randn(B, T, N)


def _selective_kernel(x, dt, A, B, C):
    return kernels.selective_scan(x, dt, A, B, C)[0].squeeze(-1)


def _selective_reference(x, dt, A, B, C):
    return selective_scan(x, dt, A, B, C)[0].squeeze(-1)


_SCANS = (
    Case(
        kernel="linear_scan",
        use="",
        function=kernels.linear_scan,
        reference=linear_scan,
        inputs=lambda B, T, W: (torch.sigmoid(randn(B, T, W) + 3), randn(B, T, W)),
        checks=_sizes("B T W", (1, 70, 20), (2, 1000, 500)),
        sizes=_sizes("B T W", (8, 2048, 4096), (1, 16384, 4096)),
        peers={"fla": _fla_hgrn, "plain PyTorch": linear_scan},
    ),
    Case(
        kernel="selective_scan",
        use="",
        function=_selective_kernel,
        reference=_selective_reference,
        inputs=_selective_inputs,
        checks=_sizes("B T E N", (1, 40, 20, 4), (2, 500, 200, 16)),
        sizes=_sizes("B T E N", (8, 2048, 2048, 16), (1, 16384, 4096, 16)),
        wide=(1, 2),
        peers={"mamba-ssm": _mamba, "plain PyTorch": _selective_reference},
    ),
    Case(
        kernel="causal_conv1d",
        use="",
        function=lambda x, weight, bias: kernels.causal_conv1d(x, weight, bias)[0],
        reference=lambda x, weight, bias: causal_conv(x, weight, bias)[0],
        inputs=lambda B, T, D, W: (randn(B, T, D), randn(D, W), randn(D)),
        checks=_sizes("B T D W", (1, 40, 20, 4), (2, 500, 200, 4)),
        sizes=_sizes("B T D W", (8, 2048, 4096, 4), (1, 16384, 4096, 4)),
        peers={"causal-conv1d": _causal_conv1d, "PyTorch": _torch_conv},
    ),
)

# A mixture of experts


def _grouped_inputs(P, E, D, F):
    """Rows of experts, each row's expert drawn at random, so that their shares differ."""
    chosen = torch.randint(E, (P,)).bincount(minlength=E)
    offsets = torch.cat([chosen.new_zeros(1), chosen.cumsum(0)]).int()
    return randn(P, D), randn(E, D, F) * D**-0.5, offsets


def _each(x, w, offsets):
    spans = pairwise(offsets.tolist())
    return torch.cat([x[i:j] @ w_e for (i, j), w_e in zip(spans, w, strict=True)])


def _torch_grouped(x, w, offsets):
    return F.grouped_mm(x, w, offs=offsets[1:])


def _moe_inputs(N, E, D, F, k):
    weights, experts = routers.top_k_gate(randn(N, E), k)
    return randn(N, D), weights, experts, randn(E, 2 * F, D) * D**-0.5, randn(E, D, F) * F**-0.5


def _moe_kernel(x, weights, experts, gate_up, down):
    load = experts.new_empty(len(down))  # of use to a trainer only: no kernel reads it
    return kernels.mix_stacked(x, Routing(experts, weights, load, {}), gate_up, down)


def _moe_loop(x, weights, experts, gate_up, down):
    """Every expert looks for its tokens."""
    y = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
    for e in range(len(down)):
        token, slot = torch.where(experts == e)
        gate, up = (x[token] @ gate_up[e].mT).chunk(2, -1)
        rows = F.silu(gate) * up @ down[e].mT * weights[token, slot, None]
        y = y.index_add(0, token, rows.to(y))
    return y.to(x.dtype)


def _moe_grouped(x, weights, experts, gate_up, down):
    """By sorting, with PyTorch's grouped product."""
    k = experts.shape[1]
    pairs = experts.flatten().argsort(stable=True)
    ends = experts.flatten().bincount(minlength=len(down)).cumsum(0).int()
    gate, up = F.grouped_mm(x[pairs // k], gate_up.mT, offs=ends).chunk(2, -1)
    rows = F.grouped_mm(F.silu(gate) * up, down.mT, offs=ends) * weights.flatten()[pairs, None]
    y = torch.zeros_like(x, dtype=torch.float32)
    return y.index_add(0, pairs // k, rows.float()).to(x.dtype)


def _plain_gate(logits: Tensor) -> Tensor:
    return routers.top_k_gate(logits, 8)[0]


_EXPERTS = (
    Case(
        kernel="top_k_gate",
        use="",
        function=lambda logits: kernels.top_k_gate(logits, 8)[0],
        reference=_plain_gate,
        inputs=lambda N, E: (randn(N, E),),
        checks=_sizes("N E", (20, 16), (1000, 200)),
        sizes=_sizes("N E", (16384, 64), (16384, 256)),
        wide=(0,),
        peers={"plain PyTorch": _plain_gate},
    ),
    Case(
        kernel="grouped_matmul",
        use="",
        function=kernels.grouped_matmul,
        reference=_each,
        inputs=_grouped_inputs,
        checks=_sizes("P E D F", (40, 4, 24, 40), (1000, 8, 300, 200)),
        sizes=_sizes(
            "P E D F",
            (16384 * 2, 8, 2048, 4096),
            (16384 * 6, 64, 2048, 1408),
            (16384 * 8, 128, 2048, 768),
        ),
        flops=lambda P, E, D, F: 2 * P * D * F,
        peers={"PyTorch, grouped_mm": _torch_grouped, "a loop": _each},
        beside={"PyTorch, one dense product": lambda x, w, offsets: x @ w[0]},
    ),
    Case(
        kernel="mix_stacked",
        use="gate chosen, SwiGLU experts",
        function=_moe_kernel,
        reference=_moe_loop,
        inputs=_moe_inputs,
        checks=_sizes("N E D F k", (20, 4, 16, 24, 2), (500, 8, 128, 96, 2)),
        sizes=_sizes(
            "N E D F k",
            (16384, 8, 2048, 4096, 2),
            (16384, 64, 2048, 1408, 6),
            (16384, 128, 2048, 768, 8),
        ),
        flops=lambda N, E, D, F, k: 6 * N * k * D * F,
        wide=(1,),
        peers={"PyTorch, grouped_mm": _moe_grouped, "a loop over experts": _moe_loop},
    ),
)

CASES = (
    _SOFTMAX,
    _RMS_NORM,
    _MATMUL,
    _attention(True),
    _attention(False),
    _DECODE,
    *_RECURRENCES,
    *_SCANS,
    *_EXPERTS,
)
