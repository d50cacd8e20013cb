"""What several exercises of chapter 14 draw and compare."""

import torch


def _randn(rng, *shape):
    return torch.randn(*shape, generator=rng)


def _close(a, b, tolerance=1e-3):
    return a.shape == b.shape and torch.allclose(a, b, atol=tolerance, rtol=tolerance)


def pair_by_pair(q, k, v, seen):
    """Attention in float64 from exponentials of all pairs: (y, lse). seen (T_q, T_k) of bool.

    q (T_q, K), k (T_k, K), v (T_k, V). A row that sees nothing gives y = 0 and lse = -inf.
    """
    q, k, v = (x.double() for x in (q, k, v))
    s = (q[:, None] * k).sum(-1) / q.shape[-1] ** 0.5
    s = torch.where(seen, s, -torch.inf)
    top = s.amax(-1).clamp(min=-1e300)
    w = torch.where(seen, torch.exp(s - top[:, None]), 0.0)
    total = w.sum(-1)
    y = (w / total.clamp(min=1e-300)[:, None]) @ v
    lse = torch.where(total > 0, top + total.log(), -torch.inf)
    return y.float(), lse.float()


def may_see(T_q, T_k, window=None):
    """Causal, with the last query at the last key; with a window, only the newest `window` keys."""
    away = torch.arange(T_q)[:, None] + T_k - T_q - torch.arange(T_k)
    return (away >= 0) & (away < (window or T_q + T_k))
