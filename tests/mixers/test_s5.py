import math

import pytest
import torch
import torch.nn.functional as F

from seqlab.mixers.lru import LRU
from seqlab.mixers.s5 import S5

D, P, T = 3, 8, 21


def make(**options):
    mixer = S5(D, d_state=P, dt_max=0.5, **options).double()
    for p in mixer.parameters():
        p.data += 0.2 * torch.randn_like(p)
    return mixer


@pytest.mark.parametrize("form", ["scan", "blelloch"])
def test_it_is_the_zero_order_hold_on_full_real_matrices(form):
    """h' = A h + B x for one step: the exponential of [[A, B], [0, 0]], with real rotations."""
    mixer, x = make(form=form), torch.randn(2, T, D, dtype=torch.float64)
    re, dt = -mixer.A_log.exp(), mixer.log_dt.exp()
    pairs = zip((dt * re).tolist(), (dt * mixer.A_imag).tolist(), strict=True)
    blocks = [torch.tensor([[r, -w], [w, r]], dtype=torch.float64) for r, w in pairs]
    joined = torch.zeros(P + D, P + D, dtype=torch.float64)
    joined[:P, :P] = torch.block_diag(*blocks)
    joined[:P, P:] = (dt[:, None, None] * mixer.B).mT.reshape(P, D)  # re, im, re, im ..
    step = torch.linalg.matrix_exp(joined)
    C = 2 * (mixer.C * torch.tensor([1.0, -1.0])).flatten(1)  # 2 Re(C h)
    h, ys = torch.zeros(2, P, dtype=torch.float64), []
    for t in range(T):
        h = h @ step[:P, :P].T + x[:, t] @ step[:P, P:].T
        ys.append(h @ C.T)
    u = F.gelu(torch.stack(ys, dim=1) + mixer.skip * x)
    y, state = mixer(x)
    torch.testing.assert_close(y, u * torch.sigmoid(mixer.out(u)), rtol=0, atol=1e-9)
    torch.testing.assert_close(torch.view_as_real(state).flatten(1), h, rtol=0, atol=1e-9)


@pytest.mark.parametrize("n_blocks", [1, 2])
def test_it_starts_as_blocks_of_normal_hippo(n_blocks):
    """The eigenvalues of HiPPO-LegS plus its rank one, -½ + i ω, once per block."""
    mixer, size = S5(D, d_state=P, n_blocks=n_blocks), P // n_blocks
    n = torch.arange(size, dtype=torch.float64)
    root = (2 * n + 1).sqrt()
    hippo = -torch.outer(root, root).tril(-1) - torch.diag(n + 1)
    normal = hippo + torch.outer((n + 0.5).sqrt(), (n + 0.5).sqrt())
    eigenvalues = torch.linalg.eigvals(normal)
    positive = eigenvalues.imag[eigenvalues.imag > 0].sort().values
    torch.testing.assert_close(mixer.A_imag.double(), positive.repeat(n_blocks), rtol=1e-6, atol=0)
    torch.testing.assert_close(-mixer.A_log.exp(), torch.full((P // 2,), -0.5))


def test_b_and_c_start_as_the_authors():
    """B real and both parts of C of variance 1 / P, in a basis of P/2 orthonormal columns V.

    So |V* B|² has mean 1 / P and |C V|² has mean 2 / P, whatever D is.
    """
    mixer, P = S5(500, d_state=32, n_blocks=2), 32
    B, C = (torch.view_as_complex(u.detach()) for u in (mixer.B, mixer.C))
    assert B.shape == (P // 2, 500) and C.shape == (500, P // 2)
    assert B.abs().square().mean().item() == pytest.approx(1 / P, rel=0.05)
    assert C.abs().square().mean().item() == pytest.approx(2 / P, rel=0.05)
    assert mixer.A_imag.shape == mixer.log_dt.shape == (P // 2,)


def test_b_and_c_start_in_one_basis(monkeypatch):
    """2 Re(C V V* B) = C B for real B and C, as V and its conjugate together are unitary."""
    monkeypatch.setattr(torch, "randn", lambda *shape, dtype=None: torch.eye(P, dtype=dtype))
    for n_blocks in (1, 2):
        mixer = S5(P, d_state=P, n_blocks=n_blocks)
        B, C = (torch.view_as_complex(u.detach()) for u in (mixer.B, mixer.C))
        identity = 2 * (C @ B).real * P / 2**0.5  # B = P^-½ and C = (2/P)^½ times the identity
        torch.testing.assert_close(identity, torch.eye(P), rtol=0, atol=1e-5)


def test_dt_and_the_skip_start_as_the_authors():
    """log dt uniform, one per mode; D normal, one per channel."""
    mixer = S5(2000, d_state=4)
    assert mixer.skip.var().item() == pytest.approx(1, rel=0.15) and mixer.skip.mean().abs() < 0.1
    log_dt = S5(2, d_state=4000, n_blocks=1000).log_dt.sort().values
    even = torch.linspace(math.log(1e-3), math.log(0.1), 2000)
    assert (log_dt - even).abs().max() < 0.05 * math.log(100)
    assert S5(2).A_imag.shape == (32,)  # one block of 64 modes by default
    assert S5(2).A_imag.unique().numel() == 32


def test_s5_and_lru_are_one_scan():
    """With λ = a, γ B = b B and C doubled, LRU's states and reads are S5's."""
    s5, x = make(), torch.randn(2, T, D, dtype=torch.float64)
    lru = LRU(D, d_state=P // 2).double()
    a, b = s5.gates()
    lru.nu_log.data = (-a.abs().log()).log()
    lru.theta_log.data = torch.remainder(a.angle(), 2 * torch.pi).log()
    lru.gamma_log.data.zero_()
    lru.B.data = torch.view_as_real(b[:, None] * torch.view_as_complex(s5.B))
    lru.C.data = 2 * s5.C.data
    lru.skip.data = s5.skip.data
    lru.out.weight.data = torch.cat([torch.eye(D), torch.zeros(D, D)]).double()
    # Both outputs are now GELU(y) / 2.
    for zero in (lru.out.bias, s5.out.weight, s5.out.bias):
        zero.data.zero_()
    for ours, theirs in zip(s5(x), lru(x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)


def test_wrong_arguments_get_one_clear_sentence():
    sentence = "d_state is 6, n_blocks is 2: each block needs an even number of modes"
    with pytest.raises(ValueError, match=sentence):
        S5(D, d_state=6, n_blocks=2)
    with pytest.raises(ValueError, match="form is 'convolution': choose one of scan, sequential"):
        S5(D, form="convolution")
