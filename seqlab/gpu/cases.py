"""What `seqlab.gpu.bench` checks and times: a line per kernel, its reference, its peers, and the
sizes.

Flops are those of the matrix products, two for a multiply-add; causal attention counts half the
square. The least bytes are not written down: they are those of the inputs and the outputs.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import randn

from seqlab import kernels
from seqlab.core.attention import attend
from seqlab.core.convolution import causal_conv
from seqlab.core.recurrence import chunkwise
from seqlab.core.scan import linear_scan
from seqlab.ffn import routers
from seqlab.ffn.routers import Routing
from seqlab.layers.norm import rms_norm
from seqlab.mixers.mamba import selective_scan


def _plain(**size) -> float:
    return 0.0


@dataclass(frozen=True, eq=False)
class Case:
    """One kernel in one use.

    inputs, flops: functions of a size's names. checks: sizes that it must be right at; the first is
    run in the interpreter. sizes: those it is timed at. backward_flops: over the forward's. wide:
    the inputs, by number, that stay float32 in half precision. beside: what takes the same inputs
    and gives another answer, to compare times with.
    """

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
    beside: dict[str, Callable] = field(default_factory=dict)

    def say(self, size: dict) -> str:
        return ", ".join(
            x for x in (self.use, " ".join(f"{name} {n}" for name, n in size.items())) if x
        )


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
            return F.scaled_dot_product_attention(
                q, k, v, is_causal=causal, enable_gqa=q.shape[1] != k.shape[1]
            )

    return _heads_first(attention)


def _flex(causal):
    @cache
    def made(T_q, T_k):
        from torch.nn.attention.flex_attention import create_block_mask, flex_attention

        flex = torch.compile(flex_attention)
        mask = (
            create_block_mask(lambda b, h, i, j: i >= j, None, None, T_q, T_k) if causal else None
        )
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
        flops=lambda B, T, H, K, h=None: 4 * B * H * T * T * K / (2 if causal else 1),
        backward_flops=2.5,
        peers=_attention_peers(causal),
    )


_DECODE = Case(
    "flash_decode",
    "",
    lambda q, k, v: kernels.flash_decode(q, k, v, causal=True),
    lambda q, k, v: attend(q, k, v, causal=True),
    _qkv,
    (
        {"B": 1, "T": 300, "H": 4, "K": 16, "h": 2, "T_q": 1},
        {"B": 4, "T": 3001, "H": 32, "K": 128, "h": 8, "T_q": 1},
    ),
    tuple(
        {"B": B, "T": T, "H": 32, "K": 128, "h": 8, "T_q": 1}
        for B, T in ((8, 8192), (8, 32768), (1, 131072))
    ),
    flops=lambda B, T, H, K, h, T_q: 4 * B * H * T * T_q * K,
    backward=False,
    peers={
        name: f for name, f in _attention_peers(causal=False).items() if name != "flex attention"
    },
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

# Recurrences. Flops of a chunk of 64: pairs of the lower half, and twice the state. Peers' shapes
# are those of fla.

CHUNK = 64
SHAPES = tuple(
    dict(zip("BTHK", shape, strict=True))
    for shape in (
        (1, 8192, 96, 128),
        (2, 16384, 16, 128),
        (4, 2048, 16, 128),
        (4, 4096, 64, 64),
        (8, 2048, 32, 256),
        (8, 1024, 8, 64),
    )
)
_SMALL = ({"B": 1, "T": 70, "H": 2, "K": 16}, {"B": 2, "T": 1000, "H": 4, "K": 64})


def _chunk_flops(B, T, H, K):
    return B * T * H * (2 * CHUNK * K + 4 * K * K)


def _decay(*shape):
    """log sigmoid of noise, held above -5 as fla's own benchmark does."""
    return F.logsigmoid(randn(*shape)).clamp(min=-5.0)


def _recurrence_inputs(width):
    def draw(B, T, H, K):
        qkv = randn(B, T, H, K) * K**-0.5, randn(B, T, H, K), randn(B, T, H, K)
        return qkv if width is None else (*qkv, _decay(B, T, H, K if width == "K" else 1))

    return draw


def _delta_inputs(decay):
    def draw(B, T, H, K):
        q, k, v = (
            randn(B, T, H, K) * K**-0.5,
            F.normalize(randn(B, T, H, K), dim=-1),
            randn(B, T, H, K),
        )
        beta = torch.sigmoid(randn(B, T, H))
        return (q, k, v, beta, _decay(B, T, H, 1)) if decay else (q, k, v, beta)

    return draw


def _fla_simple_gla(q, k, v, log_a):
    from fla.ops.simple_gla import chunk_simple_gla

    return chunk_simple_gla(q, k, v, log_a[..., 0], scale=1.0)[0]


def _fla_linear(q, k, v):
    from fla.ops.simple_gla import chunk_simple_gla

    return chunk_simple_gla(q, k, v, scale=1.0)[0]


def _fla_gla(q, k, v, log_a):
    from fla.ops.gla import chunk_gla

    return chunk_gla(q, k, v, log_a, scale=1.0)[0]


def _fla_delta(q, k, v, beta):
    from fla.ops.delta_rule import chunk_delta_rule

    return chunk_delta_rule(q, k, v, beta, scale=1.0)[0]


def _fla_gated_delta(q, k, v, beta, log_a):
    from fla.ops.gated_delta_rule import chunk_gated_delta_rule

    return chunk_gated_delta_rule(q, k, v, log_a[..., 0], beta, scale=1.0)[0]


def _mamba2(q, k, v, log_a):
    """Δ = 1 and A = -1 would tie the write to the decay: the write is v / Δ with Δ = -log a."""
    from mamba_ssm.ops.triton.ssd_combined import mamba_chunk_scan_combined

    dt = -log_a[..., 0]
    A = log_a.new_full((q.shape[2],), -1.0)
    return mamba_chunk_scan_combined((v / dt[..., None]).to(v), dt, A, k, q, chunk_size=256)


def _recurrence(use, width, peers):
    return Case(
        "chunk_recurrence",
        use,
        lambda q, k, v, log_a=None: kernels.chunk_recurrence(q, k, v, log_a=log_a)[0],
        lambda q, k, v, log_a=None: chunkwise(q, k, v, log_a=log_a)[0],
        _recurrence_inputs(width),
        _SMALL,
        SHAPES,
        flops=_chunk_flops,
        backward_flops=2.5,
        wide=() if width is None else (3,),
        peers=peers,
    )


def _delta(use, decay, peer):
    return Case(
        "chunk_delta",
        use,
        lambda q, k, v, beta, log_a=None: kernels.chunk_delta(q, k, v, beta=beta, log_a=log_a)[0],
        lambda q, k, v, beta, log_a=None: chunkwise(q, k, v, beta=beta, log_a=log_a)[0],
        _delta_inputs(decay),
        _SMALL,
        SHAPES,
        flops=lambda B, T, H, K: 2 * _chunk_flops(B, T, H, K),
        wide=(4,) if decay else (),  # the decay: q, k, v and beta have one type
        peers={"fla": peer},
    )


_SAME_TOKENS = tuple(
    {"B": 32768 // T, "T": T, "H": 16, "K": 128} for T in (1024, 2048, 4096, 8192, 16384)
)
_RECURRENCES = (
    _recurrence("no decay", None, {"fla": _fla_linear}),
    _recurrence("a decay per head", "1", {"fla": _fla_simple_gla, "mamba-ssm": _mamba2}),
    _recurrence("a decay per channel", "K", {"fla": _fla_gla}),
    replace(
        _recurrence("no decay, beside attention", None, {}),
        sizes=_SAME_TOKENS,
        beside={"seqlab, attention": _attention(True).function} | _attention_peers(causal=True),
    ),
    _delta("beta", False, _fla_delta),
    _delta("beta and a decay per head", True, _fla_gated_delta),
)

# Scans and convolutions: no products of matrices


def _fla_hgrn(a, b):
    from fla.ops.hgrn import chunk_hgrn

    return chunk_hgrn(b, a.log())[0]


def _mamba(x, dt, A, B, C):
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    return selective_scan_fn(
        *(u.mT.contiguous() for u in (x, dt)), A, *(u.mT.contiguous() for u in (B, C))
    ).mT


def _causal_conv1d(x, weight, bias):
    from causal_conv1d import causal_conv1d_fn

    return causal_conv1d_fn(x.mT, weight, bias).mT


def _torch_conv(x, weight, bias):
    W = weight.shape[-1]
    return F.conv1d(F.pad(x.mT, (W - 1, 0)), weight[:, None], bias, groups=x.shape[-1]).mT


_SCANS = (
    Case(
        "linear_scan",
        "",
        kernels.linear_scan,
        linear_scan,
        lambda B, T, W: (torch.sigmoid(randn(B, T, W) + 3), randn(B, T, W)),
        ({"B": 1, "T": 70, "W": 20}, {"B": 2, "T": 1000, "W": 500}),
        ({"B": 8, "T": 2048, "W": 4096}, {"B": 1, "T": 16384, "W": 4096}),
        peers={"fla": _fla_hgrn, "plain PyTorch": linear_scan},
    ),
    Case(
        "selective_scan",
        "",
        lambda x, dt, A, B, C: kernels.selective_scan(x, dt, A, B, C)[0].squeeze(-1),
        lambda x, dt, A, B, C: selective_scan(x, dt, A, B, C)[0].squeeze(-1),
        lambda B, T, E, N: (
            *(randn(B, T, E), F.softplus(randn(B, T, E) - 4)),
            *(-torch.arange(1.0, N + 1).repeat(E, 1), randn(B, T, N), randn(B, T, N)),
        ),
        ({"B": 1, "T": 40, "E": 20, "N": 4}, {"B": 2, "T": 500, "E": 200, "N": 16}),
        ({"B": 8, "T": 2048, "E": 2048, "N": 16}, {"B": 1, "T": 16384, "E": 4096, "N": 16}),
        wide=(1, 2),
        peers={
            "mamba-ssm": _mamba,
            "plain PyTorch": lambda *inputs: selective_scan(*inputs)[0].squeeze(-1),
        },
    ),
    Case(
        "causal_conv1d",
        "",
        lambda x, weight, bias: kernels.causal_conv1d(x, weight, bias)[0],
        lambda x, weight, bias: causal_conv(x, weight, bias)[0],
        lambda B, T, D, W: (randn(B, T, D), randn(D, W), randn(D)),
        ({"B": 1, "T": 40, "D": 20, "W": 4}, {"B": 2, "T": 500, "D": 200, "W": 4}),
        ({"B": 8, "T": 2048, "D": 4096, "W": 4}, {"B": 1, "T": 16384, "D": 4096, "W": 4}),
        peers={"causal-conv1d": _causal_conv1d, "PyTorch": _torch_conv},
    ),
)

# A mixture of experts


def _grouped_inputs(P, E, D, F):
    """Rows of experts whose shares differ as chance has it."""
    chosen = torch.randint(E, (P,)).bincount(minlength=E)
    return (
        randn(P, D),
        randn(E, D, F) * D**-0.5,
        torch.cat([chosen.new_zeros(1), chosen.cumsum(0)]).int(),
    )


def _each(x, w, offsets):
    ends = offsets.tolist()
    return torch.cat([x[i:j] @ w_e for (i, j), w_e in zip(pairwise(ends), w, strict=True)])


def _torch_grouped(x, w, offsets):
    return F.grouped_mm(x, w, offs=offsets[1:])


def _moe_inputs(N, E, D, F, k):
    weights, experts = routers.top_k_gate(randn(N, E), k)
    return randn(N, D), weights, experts, randn(E, 2 * F, D) * D**-0.5, randn(E, D, F) * F**-0.5


def _moe_kernel(x, weights, experts, gate_up, down):
    return kernels.mix_stacked(x, Routing(experts, weights, None, {}), gate_up, down)


def _moe_loop(x, weights, experts, gate_up, down):
    """Every expert looks for its tokens."""
    y = torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))
    for e in range(len(down)):
        token, slot = torch.where(experts == e)
        gate, up = (x[token] @ gate_up[e].mT).chunk(2, -1)
        y = y.index_add(
            0, token, (F.silu(gate) * up @ down[e].mT * weights[token, slot, None]).to(y)
        )
    return y.to(x.dtype)


def _moe_grouped(x, weights, experts, gate_up, down):
    """By sorting, with PyTorch's grouped product."""
    k = experts.shape[1]
    pairs = experts.flatten().argsort(stable=True)
    ends = experts.flatten().bincount(minlength=len(down)).cumsum(0).int()
    gate, up = F.grouped_mm(x[pairs // k], gate_up.mT, offs=ends).chunk(2, -1)
    rows = F.grouped_mm(F.silu(gate) * up, down.mT, offs=ends) * weights.flatten()[pairs, None]
    return (
        torch.zeros_like(x, dtype=torch.float32).index_add(0, pairs // k, rows.float()).to(x.dtype)
    )


_EXPERTS = (
    Case(
        "top_k_gate",
        "",
        lambda logits: kernels.top_k_gate(logits, 8)[0],
        lambda logits: routers.top_k_gate(logits, 8)[0],
        lambda N, E: (randn(N, E),),
        ({"N": 20, "E": 16}, {"N": 1000, "E": 200}),
        ({"N": 16384, "E": 64}, {"N": 16384, "E": 256}),
        wide=(0,),
        peers={"plain PyTorch": lambda logits: routers.top_k_gate(logits, 8)[0]},
    ),
    Case(
        "grouped_matmul",
        "",
        kernels.grouped_matmul,
        _each,
        _grouped_inputs,
        ({"P": 40, "E": 4, "D": 24, "F": 40}, {"P": 1000, "E": 8, "D": 300, "F": 200}),
        tuple(
            {"P": 16384 * k, "E": E, "D": 2048, "F": F}
            for E, F, k in ((8, 4096, 2), (64, 1408, 6), (128, 768, 8))
        ),
        flops=lambda P, E, D, F: 2 * P * D * F,
        peers={"PyTorch, grouped_mm": _torch_grouped, "a loop": _each},
        beside={"PyTorch, one dense product": lambda x, w, offsets: x @ w[0]},
    ),
    Case(
        "mix_stacked",
        "gate chosen, SwiGLU experts",
        _moe_kernel,
        _moe_loop,
        _moe_inputs,
        (
            {"N": 20, "E": 4, "D": 16, "F": 24, "k": 2},
            {"N": 500, "E": 8, "D": 128, "F": 96, "k": 2},
        ),
        tuple(
            {"N": 16384, "E": E, "D": 2048, "F": F, "k": k}
            for E, F, k in ((8, 4096, 2), (64, 1408, 6), (128, 768, 8))
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
