"""What several exercises of chapter 04 draw and compare."""

import torch
from einops import rearrange

from seqlab.course.exercise import Property


def _randn(rng, *shape):
    return torch.randn(*shape, generator=rng)


def _qkv(rng, B, T, H, K, V):
    return {
        "q": _randn(rng, B, T, H, K),
        "k": _randn(rng, B, T, H, K),
        "v": _randn(rng, B, T, H, V),
    }


def _gammas(rng, H, low=0.6, high=0.95):
    """One decay a head, apart from each other, so that a mixed-up head shows."""
    return torch.linspace(low, high, H) + 0.02 * torch.rand(H, generator=rng)


def _retnet_gammas(H):
    return torch.tensor([1 - 2.0 ** (-5 - h) for h in range(H)])


def _changed_after(t, inputs, names, axis=1):
    """The same inputs with everything after token t replaced."""
    changed = dict(inputs)
    for name in names:
        x = changed[name].clone()
        x.narrow(axis, t + 1, x.shape[axis] - t - 1).mul_(-2).add_(1)
        changed[name] = x
    return changed


def _middle(inputs):
    return (inputs["q"].shape[1] - 1) // 2


def _close(a, b, tolerance=1e-3):
    return a.shape == b.shape and torch.allclose(a, b, atol=tolerance, rtol=tolerance)


def _first(output):
    return output[0] if isinstance(output, tuple) else output


CAUSAL = Property(
    "causal",
    variants=lambda inputs: [_changed_after(_middle(inputs), inputs, ("q", "k", "v"))],
    holds=lambda inputs, outputs: _close(
        _first(outputs[0])[:, : _middle(inputs) + 1],
        _first(outputs[1])[:, : _middle(inputs) + 1],
    ),
    message="Changing later tokens changed earlier outputs: token i may read token j only where j ≤ i.",
)


def decay_mask_reference(gamma, T):
    D = torch.zeros(len(gamma), T, T)
    for i in range(T):
        for j in range(i + 1):
            D[:, i, j] = gamma ** (i - j)
    return D


def _mask(gamma, T, shift=0, keep=torch.tril):
    n = torch.arange(T)
    return keep(gamma[:, None, None] ** (n[:, None] - n + shift).clamp(min=0))


def rotate_reference(x, start):
    """A complex number a pair: multiplying by e^(iφ) turns it."""
    B, T, H, K = x.shape
    theta = torch.tensor(
        [10000 ** (-i / (K // 2 - 1)) for i in range(K // 2)], dtype=torch.float64
    )
    angle = torch.arange(start, start + T, dtype=torch.float64)[:, None, None] * theta
    pairs = torch.view_as_complex(x.double().reshape(B, T, H, K // 2, 2))
    return (
        torch.view_as_real(pairs * torch.exp(1j * angle))
        .reshape(B, T, H, K)
        .to(x.dtype)
    )


def _rotate(
    x,
    start,
    *,
    pairs="b t h (k two) -> two b t h k",
    join=None,
    theta=None,
    sign=1,
    overwritten=False,
):
    T, K = x.shape[1], x.shape[-1]
    theta = (
        10000 ** -torch.linspace(0, 1, K // 2).double() if theta is None else theta(K)
    )
    angle = (sign * torch.arange(start, start + T)[:, None] * theta)[:, None]
    cos, sin = angle.cos().float(), angle.sin().float()
    a, b = rearrange(x, pairs, two=2)
    first = a * cos - b * sin
    second = b * cos + (first if overwritten else a) * sin
    return rearrange(
        torch.stack([first, second]), join or " -> ".join(reversed(pairs.split(" -> ")))
    )


def retention_by_pairs(q, k, v, gamma, S, rows=1):
    """y_i = γ^(i+1) S q_i + Σ_{j≤i} γ^(i-j) (q_i·k_j) v_j, some rows i at a time, and S_T in the same way."""
    n, ys = torch.arange(q.shape[1])[:, None], []
    for i in n.split(rows):
        age = (i - n.T)[..., None]  # (rows, T, 1)
        decay = gamma ** age.clamp(min=0) * (age >= 0)  # (rows, T, H)
        weights = decay * torch.einsum("bihk, bjhk -> bijh", q[:, i[:, 0]], k)
        from_start = (
            torch.einsum("bhvk, bihk -> bihv", S, q[:, i[:, 0]])
            * (gamma ** (i + 1))[..., None]
        )
        ys.append(torch.einsum("bijh, bjhv -> bihv", weights, v) + from_start)
    left = (gamma ** n.flip(0))[..., None]  # (T, H, 1)
    return torch.cat(ys, 1), (gamma ** len(n))[:, None, None] * S + torch.einsum(
        "bthv, bthk -> bhvk", left * v, k
    )


def mended_reference(q, k, v, gamma, S, start):
    return retention_by_pairs(
        rotate_reference(q, start), rotate_reference(k, start), v, gamma, S
    )


def _halfway(inputs):
    return (inputs["q"].shape[1] + 1) // 2


def _second_half(inputs):
    """The second half of the tokens, from the true state after the first half."""
    t = _halfway(inputs)
    if t == inputs["q"].shape[1]:
        return []
    first, second = (
        {n: inputs[n][:, part] for n in "qkv"} for part in (slice(t), slice(t, None))
    )
    if "start" in inputs:
        _, S = mended_reference(**{**inputs, **first})
        return [{**inputs, **second, "S": S, "start": inputs["start"] + t}]
    _, S = chunkwise_reference(**{**inputs, **first})
    return [{**inputs, **second, "state": S}]


def _continues(inputs, outputs):
    if len(outputs) == 1:
        return True
    (y, S), (y_second, S_second) = outputs
    return _close(y[:, _halfway(inputs) :], y_second) and _close(S, S_second)


HALVES = Property(
    "two halves = the whole",
    variants=_second_half,
    holds=_continues,
    message="The second half of a text, started from the state after the first half, "
    "gives something else than the whole text at once: look at where the given state enters y and the returned S.",
)


def chunkwise_reference(q, k, v, gamma, state, chunk_size):
    B, _, H, K = q.shape
    empty = torch.zeros(B, H, v.shape[-1], K)
    return retention_by_pairs(
        q, k, v, gamma, empty if state is None else state, rows=chunk_size
    )


def _chunkwise(
    q,
    k,
    v,
    gamma,
    state,
    chunk_size,
    *,
    read=lambda i, n: i + 1,
    write=lambda j, n: n - 1 - j,
    keep=lambda n: n,
    inside=lambda gamma, n: _mask(gamma, n),
    padded=False,
    carried=True,
    given=True,
    updated=False,
    seen=1,
):
    """Chunkwise retention with the powers of γ, and what happens to the state, as dials."""
    q, k, v = (rearrange(x, "b t h d -> b h t d") for x in (q, k, v))
    fresh = torch.zeros(*q.shape[:2], v.shape[-1], q.shape[-1])
    S, ys = fresh if state is None or not given else state, []
    for t in range(0, q.shape[2], chunk_size):
        qc, kc, vc = (x[:, :, t : t + chunk_size] for x in (q, k, v))
        i, n = torch.arange(qc.shape[2]), chunk_size if padded else qc.shape[2]
        r, w = (
            (gamma[:, None] ** (0 * i + f(i, n)))[..., None] for f in (read, write)
        )  # (H, n, 1)
        after = (gamma ** keep(n))[:, None, None] * S + vc.mT @ (w * kc)
        ys.append(
            (qc @ kc.mT * inside(gamma, len(i))) @ vc
            + seen * (r * qc) @ (after if updated else S).mT
        )
        S = after if carried else fresh
    return rearrange(torch.cat(ys, 2), "b h t d -> b t h d"), after
