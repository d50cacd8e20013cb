"""Edges between architectures, as theorems: set one dial, and one mixer is another, weight for
weight, to 1e-9.

`alike(ours, theirs)` copies the weights they share by name; what differs is set by hand, and is the
theorem.
"""

import pytest
import torch
import torch.nn.functional as F

from seqlab.core import dplr, two_sided
from seqlab.core.attention import attend
from seqlab.core.recurrence import chunkwise, recurrent
from seqlab.core.scan import linear_scan
from seqlab.core.shift import read_before_write
from seqlab.mixers.attention import Attention
from seqlab.mixers.deltanet import DeltaNet
from seqlab.mixers.deltaproduct import DeltaProduct
from seqlab.mixers.differential import Differential
from seqlab.mixers.gated_deltanet import GatedDeltaNet
from seqlab.mixers.kda import KDA
from seqlab.mixers.linformer import Linformer
from seqlab.mixers.lru import LRU
from seqlab.mixers.mamba import selective_scan
from seqlab.mixers.mamba2 import Mamba2
from seqlab.mixers.rwkv5 import RWKV5
from seqlab.mixers.rwkv6 import RWKV6
from seqlab.mixers.rwkv7 import RWKV7
from seqlab.mixers.s5 import S5
from seqlab.mixers.streaming import StreamingLLM
from seqlab.zoo import ZOO
from seqlab.zoo.identities import IDENTITIES, alike, heads

B, T, D, H = 2, 19, 32, 4
K = D // H
OPEN = 1e4  # a gate's input so large that the gate is exactly 1


@pytest.fixture
def x():
    return torch.randn(B, T, D, dtype=torch.float64)


def close(ours, theirs):
    assert theirs.abs().max() > 1e-3  # not 0 = 0
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def inputs(T=T, width=K, V=5, *, beta=False, log_a=None):
    F64 = {"dtype": torch.float64}
    out = {"q": torch.randn(B, T, H, width, **F64), "k": torch.randn(B, T, H, width, **F64)}
    out["v"] = torch.randn(B, T, H, V, **F64)
    if log_a:
        out["log_a"] = -torch.rand(B, T, H, log_a, **F64)
    if beta:
        out["k"], out["beta"] = F.normalize(out["k"], dim=-1), torch.rand(B, T, H, **F64)
    return out


# Linear attention and its gates: the graph that chapter 05 draws


@pytest.mark.parametrize("identity", IDENTITIES, ids=lambda i: i.claim.__name__)
def test_an_identity_of_the_graph(identity, x):
    close(*identity.claim(x))


def test_every_row_of_chapter_05_is_in_the_graph():
    drawn = {name for i in IDENTITIES for name in (i.general, i.special)}
    assert {row.name for row in ZOO if row.chapter == 5} <= drawn


def test_rows_that_decay_alike_are_a_scalar_gate():
    u = inputs(log_a=1)
    rows = {**u, "log_b": u["log_a"], "log_a": None}
    close(two_sided.chunkwise(**rows)[0], chunkwise(**u)[0])


# One gradient step


def test_linear_attention_is_one_gradient_step_on_an_inner_product():
    """S ← S - ∂/∂S (-vᵀ S k): the step is v kᵀ."""
    u = inputs(T=1)
    S = torch.randn(B, H, 5, K, dtype=torch.float64, requires_grad=True)
    k, v = u["k"][:, 0], u["v"][:, 0]
    (g,) = torch.autograd.grad(-torch.einsum("bhv, bhvk, bhk ->", v, S, k), S)
    close(S.detach() - g, recurrent(**u, state=S.detach())[1])


def test_the_delta_rule_is_one_gradient_step_on_a_squared_error():
    """S ← S - β ∂/∂S ½‖S k - v‖²."""
    u = inputs(T=1, beta=True)
    S = torch.randn(B, H, 5, K, dtype=torch.float64, requires_grad=True)
    k, v, beta = u["k"][:, 0], u["v"][:, 0], u["beta"][:, 0]
    (g,) = torch.autograd.grad(0.5 * (torch.einsum("bhvk, bhk -> bhv", S, k) - v).square().sum(), S)
    close(S.detach() - beta[..., None, None] * g, recurrent(**u, state=S.detach())[1])


def test_a_gradient_step_with_weight_decay_is_a_scalar_gate():
    """S ← a S - ∂/∂S (-vᵀ S k): gated retention, Mamba-2."""
    u = inputs(T=1, log_a=1)
    S = torch.randn(B, H, 5, K, dtype=torch.float64)
    step = (
        u["log_a"][:, 0].exp()[..., None] * S + u["v"][:, 0][..., None] * u["k"][:, 0][..., None, :]
    )
    close(step, recurrent(**u, state=S)[1])


# The delta rule


def test_without_write_error_deltanet_is_linear_attention():
    """On orthonormal keys nothing is ever found under a new key; with β = 1 the write is v kᵀ."""
    u = inputs(T=K)
    u["k"] = torch.linalg.qr(torch.randn(B, H, K, K, dtype=torch.float64))[0].transpose(1, 2)
    close(recurrent(**u, beta=torch.ones(B, K, H, dtype=torch.float64))[0], recurrent(**u)[0])


def test_without_write_error_gated_deltanet_is_a_scalar_gate():
    u = inputs(T=K, log_a=1)
    u["k"] = torch.linalg.qr(torch.randn(B, H, K, K, dtype=torch.float64))[0].transpose(1, 2)
    close(chunkwise(**u, beta=torch.ones(B, K, H, dtype=torch.float64))[0], chunkwise(**u)[0])


def test_gated_deltanet_that_never_fades_is_deltanet(x):
    sizes = {"d_key": 8, "d_value": 6}
    gated, delta = alike(GatedDeltaNet(D, H, **sizes), DeltaNet(D, H, gate=True, **sizes))
    gated.A_log.data.fill_(-torch.inf)
    close(gated(x)[0], delta(x)[0])


def test_kda_whose_channels_fade_alike_is_gated_deltanet(x):
    """Equal rows in KDA's low-rank decay and bias; its sigmoid output gate is left out on both
    sides.
    """
    kda, gated = alike(KDA(D, H), GatedDeltaNet(D, H, d_key=K, d_value=K))
    kda.decay = torch.nn.Sequential(gated.decay, torch.nn.Linear(H, D, bias=False)).double()
    kda.decay[1].weight.data = torch.eye(H, dtype=torch.float64).repeat_interleave(K, dim=0)
    kda.dt_bias.data = gated.dt_bias.data.repeat_interleave(K)
    close(heads(kda, x), heads(gated, x))


@pytest.mark.parametrize("forget", [False, True])
def test_deltaproduct_of_one_step_is_deltanet(x, forget):
    sizes = {"d_key": 8, "d_value": 6, "negative_eigenvalues": True}
    if forget:
        product, delta = alike(
            DeltaProduct(D, H, n_steps=1, forget=True, **sizes), GatedDeltaNet(D, H, **sizes)
        )
    else:
        product, delta = alike(
            DeltaProduct(D, H, n_steps=1, **sizes), DeltaNet(D, H, gate=True, **sizes)
        )
    close(product(x)[0], delta(x)[0])


def test_separate_keys_to_erase_and_write_made_equal_are_the_delta_rule():
    """e = -a k, f = β k and the written key β k: the DPLR recurrence of RWKV-7 is KDA's."""
    u = inputs(beta=True, log_a=K)
    beta = u.pop("beta")[..., None]
    q, k, v, log_a = u.values()
    ours, S = dplr.chunkwise(q, beta * k, v, -log_a.exp() * k, beta * k, log_a)
    theirs, S_theirs = chunkwise(q, k, v, log_a=log_a, beta=beta[..., 0])
    close(ours, theirs)
    close(S, S_theirs)


# RWKV


def test_rwkv6_is_a_shifted_gla_with_a_bonus():
    """What RWKV-6 reads at t is what GLA, one token behind, holds: S_{t-1} q_t + (q_t·u k_t)
    v_t.
    """
    u = inputs(log_a=K)
    bonus = torch.randn(H, K, dtype=torch.float64)
    q, k, v, log_a = u.values()
    S, expected = torch.zeros(B, H, 5, K, dtype=torch.float64), []
    for t in range(T):
        read = torch.einsum("bhvk, bhk -> bhv", S, q[:, t])
        expected.append(read + (q[:, t] * bonus * k[:, t]).sum(-1, keepdim=True) * v[:, t])
        _, S = recurrent(*(w[:, t : t + 1] for w in (q, k, v)), log_a=log_a[:, t : t + 1], state=S)
    y, S_last = read_before_write(chunkwise, **u, bonus=bonus)
    close(y, torch.stack(expected, dim=1))
    close(S_last, S)


def test_rwkv6_whose_decay_and_mixing_ignore_the_token_is_rwkv5(x):
    """RWKV-6's μ is the share of the last token, RWKV-5's that of this one."""
    six, five = alike(RWKV6(D, H), RWKV5(D, H))
    six.decay_down.data.zero_()
    six.mix_down.data.zero_()
    six.decay.data = five.decay.data.flatten()
    q, k, v, gate = 1 - five.mu.data
    six.mu.data = torch.stack([torch.zeros_like(q), k, v, q, gate])
    close(six(x)[0], five(x)[0])


def test_rwkv7_that_erases_nothing_is_a_gla_with_a_decay_of_its_own(x):
    seven = RWKV7(D, H).double()
    u = seven.project(x)
    u["f"] = torch.zeros_like(u["f"])
    e, f = u.pop("e"), u.pop("f")
    close(dplr.chunkwise(**u, e=e, f=f)[0], chunkwise(**u)[0])


# State spaces


def test_mamba_is_the_recurrence_with_a_head_per_channel_and_one_value():
    E, N = 6, 4
    F64 = {"dtype": torch.float64}
    x, dt, A = torch.randn(B, T, E, **F64), torch.rand(B, T, E, **F64), -torch.rand(E, N, **F64)
    Bt, Ct = torch.randn(B, T, N, **F64), torch.randn(B, T, N, **F64)
    q, k = (u[:, :, None].expand(B, T, E, N) for u in (Ct, Bt))
    y, S = recurrent(q, k, (dt * x)[..., None], log_a=dt[..., None] * A)
    ours, S_ours = selective_scan(x, dt, A, Bt, Ct, chunk_size=7)
    close(ours, y)
    close(S_ours, S)


def test_mamba_with_one_rate_per_channel_is_mamba2_with_heads_one_wide(x):
    """All states of a channel decay alike: the scan is then a scalar gate, and chunks of it matrix
    products.
    """
    mamba2 = Mamba2(D, 2 * D, d_state=8).double()
    u, v, _, _ = mamba2._split(x, None)
    dt = u["v"][..., 0] / v[..., 0]
    A = -mamba2.A_log.exp()[:, None].expand(2 * D, 8)
    close(selective_scan(v[..., 0], dt, A, u["k"][:, :, 0], u["q"][:, :, 0])[0], chunkwise(**u)[0])


def test_ssd_has_two_readings(x):
    """A recurrence, and a T × T matrix L ⊙ (C Bᵀ): L is 1-semiseparable, so blocks below its
    diagonal have rank 1.
    """
    mamba2 = Mamba2(D, H, d_state=4).double()
    q, k, v, log_a = mamba2.project(x).values()
    L = torch.zeros(B, H, T, T, dtype=torch.float64)
    for i in range(T):
        for j in range(i + 1):
            L[:, :, i, j] = log_a[:, j + 1 : i + 1, :, 0].sum(1).exp()
    M = L * torch.einsum("bihn, bjhn -> bhij", q, k)
    close(recurrent(q, k, v, log_a=log_a)[0], torch.einsum("bhij, bjhv -> bihv", M, v))
    assert torch.linalg.matrix_rank(L[:, :, 9:, :9]).eq(1).all()
    assert torch.linalg.matrix_rank(M[:, :, 9:, :9]).le(4).all()
    # M has full rank: it is triangular, and no q_i·k_i on its diagonal is 0. (Counting singular
    # values would depend on the draw: some are as small as the smallest q_i·k_i.)
    assert M.triu(1).eq(0).all() and M.diagonal(dim1=-2, dim2=-1).ne(0).all()


def test_mamba2_with_a_step_that_ignores_the_token_is_retnet_without_rotation(x):
    mamba2 = Mamba2(D, H, d_state=8, dt_limit=(0.1, 0.1)).double()
    u = mamba2.project(x)
    gamma = -0.1 * mamba2.A_log.exp()
    weights = (torch.arange(T)[:, None] - torch.arange(T)).clamp(min=0) * gamma[:, None, None]
    scores = torch.einsum("bihk, bjhk -> bhij", u["q"], u["k"]) * weights.exp().tril()
    close(heads(mamba2, x), torch.einsum("bhij, bjhv -> bihv", scores, u["v"]))


def test_lru_and_s5_are_one_scan(x):
    """Both scan h = a h + b B x: S5 with dt Λ = log λ and B scaled to match has LRU's states."""
    lru, s5 = LRU(D, d_state=8, r_min=0.5).double(), S5(D, d_state=16).double()
    lam, gamma = (u.detach() for u in lru.gates())
    s5.log_dt.data.zero_()
    s5.A_log.data, s5.A_imag.data = (-lam.log().real).log(), lam.log().imag
    a, b = s5.gates()
    close(torch.view_as_real(a), torch.view_as_real(lam))
    B_lru = torch.view_as_complex(lru.B.detach())
    s5.B.data = torch.view_as_real((gamma / b.detach())[:, None] * B_lru)
    h_lru = linear_scan(lam[None, None], gamma * (x.to(B_lru.dtype) @ B_lru.mT))[:, -1]
    close(torch.view_as_real(lru(x)[1]), torch.view_as_real(h_lru))
    close(torch.view_as_real(s5(x)[1]), torch.view_as_real(h_lru))


def test_linear_attention_of_one_channel_is_an_elementwise_scan():
    u = inputs(width=1, V=1, log_a=1)
    q, k, v, log_a = (w[..., 0] for w in u.values())
    close(q * linear_scan(log_a.exp(), k * v), chunkwise(**u)[0][..., 0])


# Attention


def test_a_window_as_long_as_the_text_is_full_attention(x):
    window, full = alike(Attention(D, H, window=T), Attention(D, H))
    close(window(x)[0], full(x)[0])


def test_grouped_queries_with_copied_heads_are_multi_head_attention(x):
    full, grouped = alike(Attention(D, H), Attention(D, H, n_kv_heads=2))
    for name in "kv":
        W = getattr(grouped, name).weight.data.unflatten(0, (2, K))
        getattr(full, name).weight.data = W.repeat_interleave(2, dim=0).flatten(0, 1)
    close(full(x)[0], grouped(x)[0])


def test_streaming_attention_that_evicts_nothing_is_attention(x):
    streaming, full = alike(StreamingLLM(D, H, n_sinks=2, window=T), Attention(D, H))
    close(streaming(x)[0], full(x)[0])


def test_differential_attention_that_subtracts_nothing_is_attention(x):
    """λ = 0: heads twice as wide in v, each normed on its own."""
    diff = Differential(D, 2).double()
    diff.lambda_init = 0.0
    diff.lambda_q.data.zero_()
    full = Attention(D, 2, d_head=K, rope_base=10000.0).double()
    first = slice(0, 2 * K)
    full.q.weight.data, full.k.weight.data = diff.q.weight.data[first], diff.k.weight.data[first]
    q, k, _ = full.project(x).values()
    y = attend(q, k, diff.v(x).unflatten(-1, (2, 2 * K)), causal=True)
    close(diff(x)[0], diff.out(diff.norm(y).flatten(-2)))


def test_linformer_that_mixes_nothing_is_attention_without_a_mask(x):
    """E = F = the identity: every token is its own mixture."""
    linformer = Linformer(D, H, rank=T, max_length=T).double()
    linformer.E.data = linformer.F.data = torch.eye(T, dtype=torch.float64)
    q, k, v = (W(x).unflatten(-1, (H, K)) for W in (linformer.q, linformer.k, linformer.v))
    close(linformer(x)[0], linformer.out(attend(q, k, v).flatten(-2)))


def test_softmax_attention_in_one_dimension_more_is_linear_attention_at_small_scores():
    """exp(s) = 1 + s + O(s²): with scores of size ε, softmax attention is linear attention with
    φ(q)·φ(k) = 1 + q·k.
    """
    u = inputs()
    errors = []
    for eps in (1e-2, 1e-3):
        one = torch.ones(B, T, H, 1, dtype=torch.float64)
        q, k = (torch.cat([one, eps * u[n]], dim=-1) for n in "qk")
        y = recurrent(q, k, F.pad(u["v"], (0, 1), value=1.0))[0]
        errors.append(
            (
                y[..., :-1] / y[..., -1:]
                - attend(eps * u["q"], eps * u["k"], u["v"], causal=True, scale=1.0)
            )
            .abs()
            .max()
        )
    assert (
        errors[1] < 1.1e-4 * errors[0] * 1.5
    )  # fourth order in ε: scores are ε² large, and the error is their square
