"""What several exercises of chapter 10 draw and compare."""

import torch


def randn(rng, *shape):
    return torch.randn(*shape, generator=rng)


def log_gates(rng, *shape, low=0.3, high=0.99):
    """Logarithms of forget gates between low and high."""
    return (low + (high - low) * torch.rand(*shape, generator=rng)).log()


def whole(q, k, v, i, log_f, S, n, m):
    """mLSTM over T tokens in float64, each weight summed on its own, from e^m S and e^m n.

    q, k (B, T, H, K), v (B, T, H, V), i and log_f (B, T, H). Returns y and the true logarithms'
    pieces: for every token the true S and n divided by e^m_t, and m_t.
    """
    q, k, v, i, log_f, S, n, m = (u.double() for u in (q, k, v, i, log_f, S, n, m))
    ys, T = [], q.shape[1]
    for t in range(T):
        spans = [log_f[:, s + 1 : t + 1].sum(1) + i[:, s] for s in range(t + 1)]
        old = m + log_f[:, : t + 1].sum(1)
        scale = torch.stack([old, *spans]).amax(0)
        S_t = (old - scale).exp()[..., None, None] * S
        n_t = (old - scale).exp()[..., None] * n
        for s, span in enumerate(spans):
            weight = (span - scale).exp()
            S_t = S_t + torch.einsum("bh, bhv, bhk -> bhvk", weight, v[:, s], k[:, s])
            n_t = n_t + weight[..., None] * k[:, s]
        read = torch.einsum("bhvk, bhk -> bhv", S_t, q[:, t])
        size = (n_t * q[:, t]).sum(-1).abs().maximum((-scale).exp())
        ys.append(read / size[..., None])
    return torch.stack(ys, 1).float(), S_t.float(), n_t.float(), scale.float()
