"""What several exercises of chapter 07 draw and compare."""

import torch

FLAT = float("-inf")


def _randn(rng, *shape):
    return torch.randn(*shape, generator=rng)


def _log_gates(rng, *shape, strength=1.0):
    """Logarithms of gates between 0 and 1; a larger strength forgets more."""
    return -strength * torch.rand(*shape, generator=rng) - 0.05


def products(log_a):
    """L (..., T, T) in float64: the product of the gates between each pair of tokens."""
    a, T = log_a.double().exp(), log_a.shape[-1]
    L = torch.zeros(*log_a.shape, T, dtype=torch.float64)
    for j in range(T):
        L[..., j, j] = 1
        L[..., j + 1 :, j] = a[..., j + 1 :].cumprod(-1)
    return L


def by_steps(q, k, v, log_a, S):
    """The recurrence in float64, token by token: (y, last S). q, k (B, T, H, N), v (B, T, H, P)."""
    q, k, v, a, S = (u.double() for u in (q, k, v, log_a.exp(), S))
    ys = []
    for t in range(q.shape[1]):
        S = a[:, t, :, None, None] * S + torch.einsum(
            "bhp, bhn -> bhpn", v[:, t], k[:, t]
        )
        ys.append(torch.einsum("bhpn, bhn -> bhp", S, q[:, t]))
    return torch.stack(ys, 1).float(), S.float()


def _close(a, b, tolerance=1e-3):
    return a.shape == b.shape and torch.allclose(a, b, atol=tolerance, rtol=tolerance)
