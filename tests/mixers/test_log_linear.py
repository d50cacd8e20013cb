import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Uniform

from seqlab.core import log_linear, recurrence
from seqlab.mixers.log_linear import LogLinearAttention

D, T, H = 32, 23, 4


def parts(mixer, x):
    """q, k, Δ v, the log decay and λ from the layer's description; then v."""
    q, k, v = (u.unflatten(-1, (H, -1)) for u in mixer.conv(mixer.qkv(x))[0].chunk(3, dim=-1))
    dt = F.softplus(mixer.dt(x) + mixer.dt_bias)
    scales = F.softplus(mixer.L * mixer.scales(x).unflatten(-1, (H, -1)))
    return q, k, dt[..., None] * v, -mixer.A_log.exp() * dt, scales, v


def any_numbers(mixer):
    for p in (mixer.L, mixer.D):
        p.data.normal_()
    mixer.norm.data.uniform_(0.5, 2)
    return mixer


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.oracle
@pytest.mark.parametrize("form", ["recurrent", "parallel", "chunkwise"])
def test_it_is_flas_layer(fla, form):
    mixer = any_numbers(LogLinearAttention(D, form=form, chunk_size=5).double())
    x = torch.randn(2, T, D).double()
    *inputs, v = parts(mixer, x)
    y = fla("log_linear_attn").naive_log_linear_attn(*inputs)
    y = (y + mixer.D[:, None] * v).flatten(2) * F.silu(mixer.z(x))
    y = mixer.norm * y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    close(mixer(x)[0], mixer.out(y))


def test_with_equal_levels_it_is_a_scalar_gate():
    x = torch.randn(2, T, D).double()
    q, k, v, g, scales, _ = parts(any_numbers(LogLinearAttention(D).double()), x)
    ones = torch.ones_like(scales)
    ours, tables = log_linear.chunkwise(q, k, v, g[..., None], ones, chunk_size=7)
    theirs, S = recurrence.chunkwise(q, k, v, log_a=g[..., None])
    close(ours, theirs)
    close(tables.S.sum(1), S)


def test_the_tables_are_those_of_the_binary_digits():
    """T = 13: tokens 0 to 7, 8 to 11, and 12, each table as if its tokens were alone."""
    q, k, v, g, scales, _ = parts(LogLinearAttention(D).double(), torch.randn(1, 13, D).double())
    _, tables = log_linear.recurrent(q, k, v, g[..., None], scales)
    assert tables.position == 13 and log_linear.buckets(13) == [(0, 8), (8, 12), (12, 13)]
    for S, (first, end) in zip(tables.S.unbind(1), log_linear.buckets(13), strict=True):
        own = torch.zeros_like(v)
        own[:, first:end] = v[:, first:end]
        close(S, recurrence.recurrent(q, k, own, log_a=g[..., None])[1])


def test_levels_beyond_the_last_share_its_scale():
    x = torch.randn(1, T, D).double()
    q, k, v, g, scales, _ = parts(LogLinearAttention(D).double(), x)
    few = scales[..., :3]
    many = torch.cat([few, few[..., -1:].expand(*few.shape[:3], 9)], dim=-1)
    for form in log_linear.FORMS.values():
        close(form(q, k, v, g[..., None], few)[0], form(q, k, v, g[..., None], many)[0])


def test_the_starts(drawn_from):
    mixer = LogLinearAttention(2048, 2048, n_levels=15)
    drawn_from(mixer.A_log.exp(), Uniform(1, 16, validate_args=False))
    low, high = torch.tensor([1e-3, 0.1]).log().tolist()
    drawn_from(F.softplus(mixer.dt_bias).log(), Uniform(low, high, validate_args=False))
    assert (mixer.L == 1).all() and mixer.L.shape == (2048, 15) and (mixer.D == 1).all()
