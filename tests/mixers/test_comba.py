import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Uniform

from seqlab.core.recurrence import recurrent
from seqlab.mixers.comba import Comba

D, T, H = 32, 23, 4


def draw(B=2):
    return torch.randn(B, T, D, dtype=torch.float64)


def close(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def unit(u):
    return u / (u.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def parts(mixer, x):
    """q, k, v, p, β and the log decay from the layer's description."""
    widths = mixer.widths
    q, k, v = (u.unflatten(-1, (H, -1)) for u in mixer.conv(mixer.qkv(x))[0].split(widths, dim=-1))
    share = 1 / (1 + torch.exp(-mixer.b))[:, None]
    q = unit(q - mixer.d[:, None] * share * k)
    beta = mixer.beta(x).sigmoid()
    g = -mixer.A_log.exp() * F.softplus(mixer.decay(x) + mixer.dt_bias)
    return q, unit(k), v, share * unit(k), beta, g


def any_numbers(mixer):
    for p in (mixer.b, mixer.d):
        p.data.normal_()
    mixer.norm.data.uniform_(0.5, 2)
    return mixer


@pytest.mark.oracle
def test_it_is_flas_layer(fla, float64_for_float32):
    """Its chunk form. fla's naive recurrent form fades before it reads; the chunk form, and the
    kernels, read first.
    """
    module = fla("comba")
    float64_for_float32()
    mixer, x = any_numbers(Comba(D).double()), draw()
    q, k, v, p, beta, g = parts(mixer, x)
    y, S = module.naive_chunk_comba(q, k, v, p, g, beta, chunk_size=8, output_final_state=True)
    y = mixer.norm * y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    ours, state = mixer(x)
    close(ours, mixer.out(y.flatten(2) * mixer.gate(x).sigmoid()))
    close(state.S, S.mT)


def test_it_reads_before_it_fades():
    """S (a I - β σ(b) k kᵀ) + β v kᵀ, in matrices written out."""
    mixer, x = any_numbers(Comba(D).double()), draw(1)
    S, one = torch.zeros(12, 6).double(), torch.eye(6).double()
    for _, k, v, p, beta, g in zip(*(u[0, :, 0] for u in parts(mixer, x)), strict=True):
        S = S @ (g.exp() * one - beta * torch.outer(p, k)) + beta * torch.outer(v, k)
    close(mixer(x)[1].S[0, 0], S)


def test_without_fading_and_removing_all_it_is_the_delta_rule():
    mixer, x = Comba(D).double(), draw()
    mixer.A_log.data -= 100  # a = 1
    mixer.b.data += 100  # σ(b) = 1
    mixer.d.data *= 0
    q, k, v, _, beta, _ = parts(mixer, x)
    close(mixer(x)[1].S, recurrent(q, k, v, beta=beta)[1])


def test_the_starts_are_the_authors(drawn_from):
    mixer = Comba(D, 4096, d_key=1)
    drawn_from(mixer.A_log.exp(), Uniform(0.01, 16, validate_args=False))
    low, high = torch.tensor([1e-3, 0.1]).log().tolist()
    drawn_from(F.softplus(mixer.dt_bias).log(), Uniform(low, high, validate_args=False))
    assert (mixer.b == 1).all() and (mixer.d == 1).all() and (mixer.norm == 1).all()
    assert (Comba(D, correction=0.02).d == 0.02).all()
    assert Comba(D)(torch.randn(1, T, D))[1].S.shape == (1, 4, 12, 6)
