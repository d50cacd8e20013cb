import pytest
import torch

from seqlab.core.recurrence import recurrent
from seqlab.mixers.deltanet import DeltaNet

D, H, T = 32, 4, 23


def random(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize(
    "options", [{}, {"negative_eigenvalues": True, "gate": True, "d_key": 6, "d_value": 10}]
)
def test_a_write_is_a_product_with_the_identity_less_a_projection(options):
    """S_t = S_{t-1} (I - β k kᵀ) + β v kᵀ, the matrix written out, the convolution tap by tap."""
    mixer, x = DeltaNet(D, H, **options).double(), random(2, T, D)
    past = torch.cat([torch.zeros(2, 3, sum(mixer.widths), dtype=torch.float64), mixer.qkv(x)], 1)
    taps = sum(mixer.conv.weight[:, j] * past[:, j : j + T] for j in range(4))
    qkv = (taps * taps.sigmoid()).split(mixer.widths, dim=-1)
    q, k, v = (u.unflatten(-1, (H, -1)) for u in qkv)
    q, k = (u / (u.square().sum(-1, keepdim=True) + 1e-6).sqrt() for u in (q, k))
    beta = mixer.beta(x).sigmoid() * (2 if options else 1)
    S, ys = torch.zeros(2, H, v.shape[-1], k.shape[-1], dtype=torch.float64), []
    for t in range(T):
        kk = k[:, t, :, :, None] * k[:, t, :, None, :]
        S = S @ (torch.eye(k.shape[-1]) - beta[:, t, :, None, None] * kk)
        S = S + beta[:, t, :, None, None] * v[:, t, :, :, None] * k[:, t, :, None, :]
        y = (S @ q[:, t, :, :, None])[..., 0] / k.shape[-1] ** 0.5
        ys.append((y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt()).flatten(1))
    y = torch.stack(ys, 1)
    if options:
        y = y * mixer.gate(x) * mixer.gate(x).sigmoid()
    torch.testing.assert_close(mixer(x)[0], mixer.out(y), rtol=0, atol=1e-9)
    torch.testing.assert_close(mixer(x)[1].S, S, rtol=0, atol=1e-9)


def test_a_full_write_replaces_the_value_of_its_key():
    """β = 1: a key returns its last value, and orthogonal keys keep what they had."""
    k = torch.eye(4, dtype=torch.float64)[[0, 1, 0]][None, :, None]
    v, ones = random(1, 3, 1, 5), torch.ones(1, 3, 1, dtype=torch.float64)
    _, S = recurrent(k, k, v, beta=ones)
    torch.testing.assert_close(S[0, 0] @ k[0, 2, 0], v[0, 2, 0])
    torch.testing.assert_close(S[0, 0] @ k[0, 1, 0], v[0, 1, 0])


def test_on_orthonormal_keys_a_full_write_is_linear_attention():
    """Nothing is stored under a new key, so there is nothing to take away."""
    k = torch.linalg.qr(random(7, 7))[0][None, :, None]
    q, v = random(1, 7, 1, 7), random(1, 7, 1, 5)
    ones = torch.ones(1, 7, 1, dtype=torch.float64)
    for ours, theirs in zip(recurrent(q, k, v, beta=ones), recurrent(q, k, v), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@pytest.mark.parametrize(("doubled", "low"), [(False, 0), (True, -1)])
def test_the_eigenvalues_of_a_write(doubled, low):
    """I - β k kᵀ has eigenvalue 1 - β |k|², between `low` and 1, along k and 1 across it. |k| is 1
    or, by the eps of the norm, a little less.
    """
    mixer, x = DeltaNet(D, H, negative_eigenvalues=doubled).double(), 30 * random(1, T, D)
    inputs = mixer.project(x)
    k, beta = inputs["k"][0, :, 0].detach(), inputs["beta"][0, :, 0].detach()
    for k_t, beta_t in zip(k, beta, strict=True):
        eigenvalues = torch.linalg.eigvalsh(torch.eye(8) - beta_t * torch.outer(k_t, k_t))
        torch.testing.assert_close(eigenvalues[1:], torch.ones(7, dtype=torch.float64))
        assert k_t @ k_t <= 1
        assert eigenvalues[0] == pytest.approx((1 - beta_t * k_t @ k_t).item(), abs=1e-9)
        assert low - 1e-9 <= eigenvalues[0] <= 1  # a tiny β rounds 1 - β to 1
    assert (1 - beta).min() < low + 0.1  # the whole range is used


def test_the_defaults_are_the_papers():
    """A head is as wide in k as in v; the norm starts at 1; nothing has a bias but on request."""
    mixer = DeltaNet(D)
    assert mixer(random(1, 2, D).float())[1].S.shape == (1, 4, D // 4, D // 4)
    assert mixer.norm.eq(1).all() and mixer.gate is None
    assert not any("bias" in name for name in mixer.state_dict())
    assert DeltaNet(D, conv_bias=True).conv.bias.eq(0).all()


@pytest.mark.oracle
def test_against_fla(fla):
    mixer, x = DeltaNet(D, H, negative_eigenvalues=True), torch.randn(2, 50, D)
    q, k, v, beta = mixer.project(x).values()
    first = (u.transpose(1, 2) for u in (q * (D // H) ** 0.5, k, v, beta))  # fla scales q itself
    y, S = fla("delta_rule").delta_rule_recurrence(*first)
    ours = recurrent(q, k, v, beta=beta)
    torch.testing.assert_close(ours[0], y.transpose(1, 2), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours[1], S.mT, rtol=1e-5, atol=1e-6)
