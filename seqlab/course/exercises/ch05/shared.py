"""What several exercises of chapter 05 draw and compare."""

import torch

from seqlab.course.exercise import Property


def _randn(rng, *shape):
    return torch.randn(*shape, generator=rng)


def _gates(rng, *shape, low=0.5, high=0.98):
    """Logarithms of gates between low and high."""
    return (low + (high - low) * torch.rand(*shape, generator=rng)).log()


def _qkv(rng, B, T, H, K, V):
    return {
        "q": _randn(rng, B, T, H, K),
        "k": _randn(rng, B, T, H, K),
        "v": _randn(rng, B, T, H, V),
    }


def _close(a, b, tolerance=1e-3):
    return a.shape == b.shape and torch.allclose(a, b, atol=tolerance, rtol=tolerance)


def _middle(inputs):
    return (inputs["q"].shape[1] + 1) // 2


def _changed(inputs):
    """The same inputs with everything after the middle replaced."""
    changed, t = dict(inputs), _middle(inputs)
    for name in ("q", "k", "v"):
        changed[name] = inputs[name].clone()
        changed[name][:, t:] = 1 - 2 * changed[name][:, t:]
    return [changed]


CAUSAL = Property(
    "causal",
    variants=_changed,
    holds=lambda inputs, outputs: _close(
        *(y[:, : _middle(inputs)] for y, _ in outputs)
    ),
    message="Changing later tokens changed earlier outputs: token i may read token j only where j ≤ i.",
)


def by_pairs(q, k, v, log_a, S):
    """y_i and the last S: every pair on its own, its decay a sum of logs over its own span; float64."""
    q, k, v, log_a, S = (u.double() for u in (q, k, v, log_a, S))
    T, ys = q.shape[1], []
    for i in range(T):
        y = torch.einsum(
            "bh, bhvk, bhk -> bhv", log_a[:, : i + 1].sum(1).exp(), S, q[:, i]
        )
        for j in range(i + 1):
            score = (q[:, i] * k[:, j]).sum(-1) * log_a[:, j + 1 : i + 1].sum(1).exp()
            y = y + score[..., None] * v[:, j]
        ys.append(y)
    S = log_a.sum(1).exp()[..., None, None] * S
    for j in range(T):
        left = log_a[:, j + 1 :].sum(1).exp()[..., None]
        S = S + (left * v[:, j])[..., :, None] * k[:, j][..., None, :]
    return torch.stack(ys, dim=1).float(), S.float()


def token_by_token(q, k, v, log_a, S):
    """The recurrence, in the dtype of the inputs."""
    ys = []
    for t in range(q.shape[1]):
        S = log_a[:, t].exp()[..., None, None] * S
        S = S + v[:, t, ..., None] * k[:, t, :, None]
        ys.append((S @ q[:, t, ..., None])[..., 0])
    return torch.stack(ys, dim=1), S
