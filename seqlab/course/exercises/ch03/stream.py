"""Bug hunt: the model that knew the future

*Find and mend two faults in a normalised linear attention that leaves a perfect state behind. · 12 minutes · ●●○ · 2 points*

Only the last y should have moved. Mend `stream_given`: write the right version into `stream`. You may copy it and
change a few lines. This probe shows one of the two faults only: when the last y alone moves, the other may still be
there. Ask then what the very first y is, if S and z start from zeros.
"""

import torch
from torch import einsum

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch03.shared import (
    CAUSAL,
    SIZES,
    _normalised,
    _numbers,
    _positive_tokens,
)
from seqlab.course.exercises.vocabulary import old_state


def stream(q, k, v, S, z):
    """Normalised linear attention, token by token: y_t = S_t q_t / z_t·q_t.

    S_t = S_{t-1} + v_t k_tᵀ and z_t = z_{t-1} + k_t, starting from the given S (B, H, V, K) and z (B, H, K).
    q, k: (B, T, H, K), positive, v: (B, T, H, V). Returns y (B, T, H, V), the last S and the last z.
    """
    ### BEGIN SOLUTION
    ys = []
    for t in range(q.shape[1]):
        S = S + einsum("bhv,bhk->bhvk", v[:, t], k[:, t])
        z = z + k[:, t]
        y = einsum("bhvk,bhk->bhv", S, q[:, t])
        ys.append(y / einsum("bhk,bhk->bh", z, q[:, t])[..., None])
    return torch.stack(ys, dim=1), S, z
    ### END SOLUTION


WHY = r"""
**Solution.** *Fault one:* z was summed over the whole sequence before the loop, so every y was divided by keys
still to come. In training this leaks the future; in decoding, where T = 1, the sum holds one key only and the model
meets numbers it never saw. *Fault two:* y was read from S before the token was written, while z held it already.
The first token of an empty memory always read 0.

Neither fault shows in the final S and z: both add up the same terms in the end. A test that looks only at the last
state, or that chains two calls through it, passes. The test that finds both is the one for causality, and a
comparison at T = 1.

*Common mistakes:* adding k_t inside the loop and leaving the first line in, so that each key counts twice; moving
the write of S but not that of z; starting z from zeros, which forgets earlier calls.
"""

HINTS = (
    "Change only the last token and look at which y move. Then ask what the first y may depend on.",
    "z_t = z_{t-1} + k_t grows token by token, as S does; and y_t = S_t q_t / z_t·q_t uses both after the write.",
    "In the loop, in this order: S = S + v_t k_tᵀ, z = z + k_t, then the read. No sum over time before the loop.",
)


def reference(q, k, v, S, z):
    y, SZ = _normalised(q, k, v, torch.cat([S, z[:, :, None]], dim=2))
    return y, SZ[:, :, :-1], SZ[:, :, -1]


def cases(rng):
    cases = []
    for name, B, T, H, K, V in SIZES:
        memory = {"S": torch.zeros(B, H, V, K), "z": torch.zeros(B, H, K)}
        cases.append(
            Case(
                f"{name}, an empty memory",
                _positive_tokens(rng, B, T, H, K, V) | memory,
            )
        )
    for name, B, T, H, K, V in SIZES[::-1]:
        memory = {"S": _numbers(rng, B, H, V, K), "z": 1 + _numbers(rng, B, H, K).abs()}
        cases.append(
            Case(
                f"{name}, S and z are given",
                _positive_tokens(rng, B, T, H, K, V) | memory,
            )
        )
    return cases


def _all_at_once(q, k, v, S, z):
    Ss = S[:, None] + (v[..., :, None] * k[..., None, :]).cumsum(1)  # (B, T, H, V, K)
    zs = z[:, None] + k.cumsum(1)
    return (
        (Ss @ q[..., None])[..., 0] / (zs * q).sum(-1, keepdim=True),
        Ss[:, -1],
        zs[:, -1],
    )


def parts_hint(t, inputs):
    return "which keys are in z, and which writes are in S, at the moment y_t is read?"


PROPERTIES = (CAUSAL,)

OUTPUTS = ("y", "S", "z")

TIME_AXIS = {"y": 1, "S": None, "z": None}

ALTERNATIVES = (_all_at_once,)

MISTAKES = """
ys = [] → ys = [] ⏎ z = z + k.sum(1) ; S = S + einsum("bhv,bhk->bhvk", v[:, t], k[:, t]) ⏎ z = z + k[:, t] ⏎ y = einsum("bhvk,bhk->bhv", S, q[:, t]) → y = einsum("bhvk,bhk->bhv", S, q[:, t]) ⏎ S = S + einsum("bhv,bhk->bhvk", v[:, t], k[:, t])
    Both faults are still there. Which keys are in z at the first token? Does a token read its own
    write?
ys = [] → ys = [] ⏎ z = z + k.sum(1) ; z = z + k[:, t] ⏎ →
    One fault is mended. The other: z sums the keys of the whole sequence before the loop, so every
    y knows the keys to come.
S = S + einsum("bhv,bhk->bhvk", v[:, t], k[:, t]) ⏎ z = z + k[:, t] ⏎ y = einsum("bhvk,bhk->bhv", S, q[:, t]) → y = einsum("bhvk,bhk->bhv", S, q[:, t]) ⏎ S = S + einsum("bhv,bhk->bhvk", v[:, t], k[:, t]) ⏎ z = z + k[:, t]
    One fault is mended, z grows token by token. The other: S is read before the token is written.
S = S + einsum("bhv,bhk->bhvk", v[:, t], k[:, t]) ⏎ z = z + k[:, t] ⏎ y = einsum("bhvk,bhk->bhv", S, q[:, t]) ⏎ ys.append(y / einsum("bhk,bhk->bh", z, q[:, t])[..., None]) → y = einsum("bhvk,bhk->bhv", S, q[:, t]) ⏎ ys.append(y / einsum("bhk,bhk->bh", z, q[:, t])[..., None]) ⏎ S = S + einsum("bhv,bhk->bhvk", v[:, t], k[:, t]) ⏎ z = z + k[:, t]
    S and z are both read before the token is written. y_t uses S_t and z_t: update both, then read.
z = z + k[:, t] ⏎ → ; ys.append(y / einsum("bhk,bhk->bh", z, q[:, t])[..., None]) → ys.append(y / einsum("bhk,bhk->bh", z, q[:, t])[..., None]) ⏎ z = z + k[:, t]
    z lags one token behind S: it is read before k_t is added. Update both, then read.
ys = [] → ys = [] ⏎ z = z + k.sum(1)
    Every key enters z twice: once in the sum before the loop, once inside it. Keep only the one
    inside.
ys = [] → ys = [] ⏎ z = torch.zeros_like(z)
    z restarts from zeros: the given z, the keys of earlier calls, is lost. Start from z as it comes
    in.
z = z + k[:, t] → z = k[:, t]
    z is replaced by the newest key. It is a sum over all keys so far: z = z + k_t.
z = z + k[:, t] ⏎ →
    z never changes: the new keys are not added to it. Add k_t inside the loop.
y / einsum("bhk,bhk->bh", z, q[:, t])[..., None] → y
    The division is gone: y is S q, without the normaliser. Divide by z·q.
z, q[:, t] → z, k[:, t]
    y is divided by z·k_t. The sum of the weights is z·q_t: it is the query that reads.
einsum("bhk,bhk->bh", z, q[:, t])[..., None] → z.sum(-1, keepdim=True)
    y is divided by the sum of z, without the query. The sum of the weights is z·q_t.
einsum("bhk,bhk->bh", z, q[:, t])[..., None] → (q * k)[:, t].sum(-1, keepdim=True)
    y is divided by this token's own weight q_t·k_t. The normaliser is z·q_t, with z over all keys
    up to t.
[..., None] →
    z·q has lost its last axis, so broadcasting lines up its heads with the entries of v. Keep the
    axis, with [..., None] or keepdim=True.
ys = [] → ys = [] ⏎ S, z = torch.zeros_like(S), torch.zeros_like(z)
    The given S and z are ignored: both start from zeros, and earlier calls are forgotten. Start
    from them.
ys = [] → ys = [] ⏎ S = torch.zeros_like(S)
    The given S is ignored: it starts from zeros, while z goes on. Start from S as it comes in.
ys = [] → ys = [] ⏎ mean = z + k.mean(1) ; dim=1), S, z → dim=1), S, mean
    The returned z averages the keys. It is their plain sum, like the z inside the loop.
"""

ALSO = (
    old_state(
        "z",
        2,
        says="y is right, but the z that came in is returned. Return the z the loop ends with, for the next call.",
    ),
)
