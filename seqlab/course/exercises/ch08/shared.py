"""What several exercises of chapter 08 draw and compare."""

import torch


def randn(rng, *shape):
    return torch.randn(*shape, generator=rng)


def unit(rng, *shape):
    k = randn(rng, *shape)
    return k / k.norm(dim=-1, keepdim=True)


def strengths(rng, *shape, most=1.0):
    return most * torch.rand(*shape, generator=rng)


def by_steps(q, k, v, log_a, beta, S):
    """Fade, then clear, in float64 with every matrix written out: y (T, V) and the last S (V, K)."""
    q, k, v, a, beta, S = (u.double() for u in (q, k, v, log_a.exp(), beta, S))
    ys = []
    for t in range(len(q)):
        A = torch.diag(a[t].expand(k.shape[1]))
        S = S @ A @ (torch.eye(k.shape[1]).double() - beta[t] * torch.outer(k[t], k[t]))
        S = S + beta[t] * torch.outer(v[t], k[t])
        ys.append((S * q[t]).sum(1))
    return torch.stack(ys).float(), S.float()
