import math

import pytest
import torch

from seqlab.mixers import Mamba2, Mamba3

D, T = 12, 17


def drawn(**options):
    """In float64, with every parameter moved away from its start."""
    torch.manual_seed(0)
    mixer = Mamba3(D, n_heads=2, d_state=8, **options).double()
    for p in mixer.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return mixer


@torch.no_grad()
def by_the_paper(mixer, u):
    """Head by head and token by token, with pairs of key channels as complex numbers."""
    H, N, R = mixer.n_heads, mixer.B_norm.shape[0], mixer.rank
    G, A = mixer.n_groups, mixer.n_angles
    rows = (mixer.in_proj.weight @ u.T).T
    E = mixer.out.weight.shape[1]
    P = E // H
    cuts = [E, 2 * E, 2 * E + R * G * N, 2 * E + 2 * R * G * N]
    z, x, B, C = (rows[:, a:b] for a, b in zip([0, *cuts], cuts, strict=False))
    w, rate, trap = rows[:, cuts[3] : cuts[3] + 3 * H].reshape(len(u), 3, H).unbind(1)
    omega = rows[:, cuts[3] + 3 * H :]
    ones = torch.ones(H, R, P, dtype=u.dtype)
    m, n, o = (getattr(mixer, name, ones) for name in ("rank_x", "rank_z", "rank_out"))
    result = torch.zeros(len(u), E, dtype=u.dtype)
    for h in range(H):
        S = torch.zeros(P, N, dtype=u.dtype)
        phi, before = torch.zeros(A, dtype=u.dtype), torch.zeros(P, N, dtype=u.dtype)
        for t in range(len(u)):
            dt = math.log1p(math.exp(w[t, h] + mixer.dt_bias[h]))
            r = rate[t, h].item()
            a = math.exp(-dt * max(1 + r if r >= 0 else 1 / (1 - r), 1e-4))
            lam = 1 / (1 + math.exp(-trap[t, h]))
            phi = phi + math.pi * dt * torch.tanh(omega[t])

            def key(flat, weight, bias, t=t, phi=phi, h=h):
                rows = flat[t].reshape(R, G, N)[:, h * G // H]
                rows = weight * rows / (rows.square().mean(-1, keepdim=True) + 1e-5).sqrt()
                rows = rows + bias[h]
                pairs = torch.view_as_complex(rows[:, : 2 * A].reshape(R, A, 2).contiguous())
                pairs = pairs * torch.exp(1j * phi)
                return torch.cat([torch.view_as_real(pairs).reshape(R, 2 * A), rows[:, 2 * A :]], 1)

            k, q = key(B, mixer.B_norm, mixer.B_bias), key(C, mixer.C_norm, mixer.C_bias)
            v = x[t, h * P : (h + 1) * P] * m[h]  # (R, P)
            gate = z[t, h * P : (h + 1) * P] * n[h]
            write = sum(torch.outer(v[i], k[i]) for i in range(R))
            S = a * S + (1 - lam) * dt * a * before + lam * dt * write
            before = write
            for i in range(R):
                y = (S @ q[i] + mixer.D[h] * v[i]) * gate[i] * torch.sigmoid(gate[i])
                result[t, h * P : (h + 1) * P] += o[h, i] * y
    return result @ mixer.out.weight.T


@pytest.mark.parametrize(
    "options",
    [{}, {"rank": 3}, {"n_groups": 2, "rank": 2}, {"rope_fraction": 1.0}],
    ids=["one input", "three inputs", "two groups", "all channels turn"],
)
def test_it_is_the_papers_recurrence(options):
    mixer, u = drawn(**options), torch.randn(2, T, D, dtype=torch.float64)
    y, _ = mixer(u)
    for row, ours in zip(u, y, strict=True):
        torch.testing.assert_close(ours, by_the_paper(mixer, row), rtol=0, atol=1e-9)


def test_without_its_three_changes_it_is_mamba2s_recurrence():
    """λ = 1, no turn, one input: the state of Mamba-2 with the same q, k, Δ x and gates."""
    mixer, u = drawn(), torch.randn(1, T, D, dtype=torch.float64)
    cuts = torch.tensor(mixer.widths).cumsum(0).tolist()
    W = mixer.in_proj.weight.data
    W[cuts[5] : cuts[7]] = 0  # λ and ω
    u[..., 0] = 1  # a constant input, which opens λ
    W[cuts[5] : cuts[6], 0] = 50.0
    _, (S, angle, k, _) = mixer(u)
    assert angle.abs().max() == 0
    w, rate = ((u @ W.T)[..., a:b] for a, b in ((cuts[3], cuts[4]), (cuts[4], cuts[5])))
    dt = torch.nn.functional.softplus(w + mixer.dt_bias)
    a = torch.exp(-dt * torch.where(rate >= 0, 1 + rate, 1 / (1 - rate)))
    expected = 0
    for t in range(T):
        _, (_, _, k, v) = mixer(u[:, : t + 1])
        write = torch.einsum("brhv, brhk -> bhvk", v, k)
        expected = a[:, t, :, None, None] * expected + dt[:, t, :, None, None] * write
    torch.testing.assert_close(S, expected, rtol=0, atol=1e-9)


def test_angles_are_carried_within_one_turn():
    mixer, u = drawn(), 5 * torch.randn(1, 64, D, dtype=torch.float64)
    _, state = mixer(u)
    assert state.angle.min() >= 0 and state.angle.max() < 2 * math.pi


def test_it_starts_as_the_authors_code():
    mixer = Mamba3(D, n_heads=2, d_state=8, rank=4)
    for p in (mixer.B_bias, mixer.C_bias, mixer.D, mixer.rank_z, mixer.B_norm):
        assert (p == 1).all()
    assert (mixer.rank_x == 0.25).all() and (mixer.rank_out == 0.25).all()
    dt = torch.nn.functional.softplus(mixer.dt_bias)
    assert (dt > 0.99e-3).all() and (dt < 0.101).all()


def test_it_has_no_more_state_for_more_inputs():
    sizes = [Mamba3(D, 2, d_state=8, rank=r)(torch.randn(1, 3, D))[1].S.numel() for r in (1, 4)]
    assert sizes[0] == sizes[1] == Mamba2(D, 2, d_state=8)(torch.randn(1, 3, D))[1].S.numel()


def test_groups_that_do_not_divide_the_heads_get_one_sentence():
    with pytest.raises(ValueError, match="n_heads is 3, n_groups is 2"):
        Mamba3(D, 3, n_groups=2)
