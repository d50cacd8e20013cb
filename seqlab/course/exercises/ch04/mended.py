"""Bug hunt: a decoder that drifts

*Find what is wrong in code that runs, from how its answers differ. · 15 minutes · ●●○ · 2 points*

This decoder takes tokens one by one, turns q and k by their position, and carries S. `start` is the position of the
first token of a call. It runs, its shapes are right, and it has **two bugs**. Run the cell below: it shows three
symptoms. The first two lines should hold a 1 for each of the two heads, the third a 0 for each of the eight tokens.
Then write the right version into `mended`. You may copy the code and change a few lines.
"""

import torch

from seqlab.core import position
from seqlab.course.exercise import Case
from seqlab.course.exercises.ch04.shared import (
    CAUSAL,
    HALVES,
    _chunkwise,
    _gammas,
    _qkv,
    _randn,
    _retnet_gammas,
    _rotate,
    mended_reference,
)


def mended(q, k, v, gamma, S, start):
    """Retention token by token, with q and k turned by their position: S ← γ S + v kᵀ, then y = S q.

    q, k (B, T, H, K), v (B, T, H, V), gamma (H,). S (B, H, V, K) is the state before the first token of this call, and
    start the position of that token: token t has position start + t. Returns (y, S), y (B, T, H, V), S after the last token.
    """
    ### BEGIN SOLUTION
    theta = position.rope_frequencies(q.shape[-1], inclusive=True)
    ys = []
    for t in range(q.shape[1]):
        here = torch.tensor([start + t])
        q_t, k_t = (
            position.rotate(x[:, t : t + 1], here, theta, interleaved=True)[:, 0]
            for x in (q, k)
        )
        S = gamma[:, None, None] * S
        S = S + v[:, t, :, :, None] * k_t[..., None, :]
        ys.append(torch.einsum("bhvk, bhk -> bhv", S, q_t))
    return torch.stack(ys, dim=1), S
    ### END SOLUTION


WHY = r"""
**The first bug** is the order. γ came after the write, so the new pair was decayed too. With one token and an empty
state y must be (k·q) v, whatever γ is. From an empty state the bug multiplies every y of a head by γ, and the
per-head norm divides that out again: a model can train with it and nobody sees it. It comes to light when the state
goes to code that decays in the right order, such as a chunkwise kernel.

**The second bug** is the position. It was t, counted anew in each call, but keys already in S were turned by where
they stood in the whole text. Fed at once, a text gives the right distances. Fed in parts, q and the old keys are
off by `start`. Nothing fails; the model merely gets worse after the prompt.

**How to find such bugs.** Two questions find most of them. What must one token give, from an empty state? And do
two parts with the state carried over equal the whole?

*Common mistakes:* Adding start to q and forgetting k. Moving the read instead of the decay: then y looks right from
an empty state and in two parts, but the S that is handed over has been decayed once too often: the second line shows
it.
"""

HINTS = (
    "There are two bugs. One shows with T = 1 and an empty state, the other only when a text is fed in two parts.",
    "What should y hold of γ after one token, and S? And the keys in S were turned by their places in the whole "
    "text: by which place is q turned in the second call?",
    "Swap the two lines that change S, so that γ comes first, and build the position from start + t.",
)


def _decode(
    q, k, v, gamma, S, start, *, order="decay write read", q_start=1, k_start=1, later=0
):
    """The function of the bug hunt with the order of its three lines, and its positions, as dials."""
    q, k = _rotate(q, q_start * start + later), _rotate(k, k_start * start + later)
    g, ys = gamma[:, None, None], []
    for t in range(q.shape[1]):
        for line in order.split():
            if line == "decay":
                S = g * S
            elif line == "write":
                S = S + v[:, t, :, :, None] * k[:, t, :, None, :]
            else:
                ys.append((S @ q[:, t, :, :, None])[..., 0])
    return torch.stack(ys, 1), S


def cases(rng):
    def case(name, B, T, H, K, V, start, gamma):
        S = torch.zeros(B, H, V, K) if start == 0 else _randn(rng, B, H, V, K)
        return Case(
            name, {**_qkv(rng, B, T, H, K, V), "gamma": gamma, "S": S, "start": start}
        )

    return [
        case("T = 1, the first token", 1, 1, 2, 4, 4, 0, _gammas(rng, 2)),
        case("odd T, from the start", 2, 7, 2, 4, 4, 0, _gammas(rng, 2)),
        case("T = 1, after 6 tokens", 1, 1, 2, 4, 4, 6, _gammas(rng, 2)),
        case("K ≠ V, after 3 tokens", 2, 5, 3, 6, 2, 3, _gammas(rng, 3)),
        case(
            "the decays of the paper, after 40 tokens",
            1,
            11,
            4,
            8,
            3,
            40,
            _retnet_gammas(4),
        ),
        case(
            "γ near 0, after 2 tokens", 1, 9, 2, 4, 5, 2, _gammas(rng, 2, 0.001, 0.05)
        ),
    ]


reference = mended_reference


def parts_hint(t, inputs):
    return (
        "is the old state decayed, and the new pair not? Are q and k both turned by start?"
        if t == 0
        else "what happens to S, and to the position, from one token to the next?"
    )


PROPERTIES = (HALVES, CAUSAL)

OUTPUTS = ("y", "S")

TIME_AXIS = {"y": 1, "S": None}

ALTERNATIVES = (
    _decode,
    lambda q, k, v, gamma, S, start: _chunkwise(
        _rotate(q, start), _rotate(k, start), v, gamma, S, 3
    ),
)

MISTAKES = """
S = gamma[:, None, None] * S ⏎ S = S + v[:, t, :, :, None] * k_t[..., None, :] → S = S + v[:, t, :, :, None] * k_t[..., None, :] ⏎ S = gamma[:, None, None] * S ; torch.tensor([start + t]) → torch.tensor([t])
    Both bugs are still there. Feed one token into an empty state and compare y with (k·q) v; then
    feed a text in two parts and compare with the whole.
torch.tensor([start + t]) → torch.tensor([t])
    The order is mended, the positions are not: the second part of a text turns q and k from angle 0
    again, but the keys in S were turned further. Look at where start is used.
S = gamma[:, None, None] * S ⏎ S = S + v[:, t, :, :, None] * k_t[..., None, :] → S = S + v[:, t, :, :, None] * k_t[..., None, :] ⏎ S = gamma[:, None, None] * S
    Your positions are mended, the order is not: γ still multiplies the new pair, so y is γ times
    too small even for one token. Look at the two lines that change S.
position.rotate(x[:, t : t + 1], here, theta, interleaved=True)[:, 0] for x in (q, k) → position.rotate(x[:, t : t + 1], torch.tensor([p]), theta, interleaved=True)[:, 0] for x, p in ((q, start + t), (k, t))
    The start reaches q but not k: their distance is wrong by start. Look at the positions given to
    k.
position.rotate(x[:, t : t + 1], here, theta, interleaved=True)[:, 0] for x in (q, k) → position.rotate(x[:, t : t + 1], torch.tensor([p]), theta, interleaved=True)[:, 0] for x, p in ((q, t), (k, start + t))
    The start reaches k but not q: their distance is wrong by start. Look at the positions given to
    q.
S = gamma[:, None, None] * S ⏎ →
    The decay is gone: this is linear attention with rotations. γ S must stay, before the write.
S = S + v[:, t, :, :, None] * k_t[..., None, :] ⏎ ys.append(torch.einsum("bhvk, bhk -> bhv", S, q_t)) → ys.append(torch.einsum("bhvk, bhk -> bhv", S, q_t)) ⏎ S = S + v[:, t, :, :, None] * k_t[..., None, :]
    Your read stands before the write: a token reads its own pair too. The order is decay, write,
    read.
S = gamma[:, None, None] * S ⏎ → ; ys.append(torch.einsum("bhvk, bhk -> bhv", S, q_t)) → ys.append(torch.einsum("bhvk, bhk -> bhv", S, q_t)) ⏎ S = gamma[:, None, None] * S
    Your read stands between the write and the decay: y is right from an empty state, but the S
    handed over has been decayed once too often. Look at the order decay, write, read.
ys.append(torch.einsum("bhvk, bhk -> bhv", S, q_t)) → S = gamma[:, None, None] * S ⏎ ys.append(torch.einsum("bhvk, bhk -> bhv", S, q_t))
    Your state is decayed twice for each token. Look for a second product with γ.
start + t → start + t + 1
    Your positions are one too high: start is the position of the first token of this call. Look for
    a + 1.
start + t → t - start
    The start is subtracted. Token t of this call stands at start + t.
S = gamma[:, None, None] * S ⏎ → ; ys.append(torch.einsum("bhvk, bhk -> bhv", S, q_t)) → ys.append(torch.einsum("bhvk, bhk -> bhv", S, q_t)) ⏎ S = gamma[:, None, None] * S ; torch.tensor([start + t]) → torch.tensor([t])
    Your positions are not mended, and the read stands between the write and the decay: the order is
    decay, write, read, and token t stands at start + t.
S = S + v[:, t, :, :, None] * k_t[..., None, :] ⏎ ys.append(torch.einsum("bhvk, bhk -> bhv", S, q_t)) → ys.append(torch.einsum("bhvk, bhk -> bhv", S, q_t)) ⏎ S = S + v[:, t, :, :, None] * k_t[..., None, :] ; torch.tensor([start + t]) → torch.tensor([t])
    Your positions are not mended, and the read stands before the write: the order is decay, write,
    read, and token t stands at start + t.
S = gamma[:, None, None] * S → ys.append(torch.einsum("bhvk, bhk -> bhv", S, q_t)) ⏎ S = gamma[:, None, None] * S ; S = S + v[:, t, :, :, None] * k_t[..., None, :] ⏎ ys.append(torch.einsum("bhvk, bhk -> bhv", S, q_t)) → S = S + v[:, t, :, :, None] * k_t[..., None, :]
    Your read comes first of all, before the decay: y holds S of the token before. The order is
    decay, write, read.
S = gamma[:, None, None] * S ⏎ → ; torch.tensor([start + t]) → torch.tensor([t])
    The decay is gone, and the positions still start at 0: put γ S back, before the write, and use
    start + t.
start + t → start
    All tokens of a call are turned by start: t is left out. Token t stands at start + t.
interleaved=True)[:, 0] → interleaved=True)[:, 0] * 0 + x[:, t]
    The rotation is gone: q and k are still to be turned, by the position start + t.
S + v → S + (1 - gamma)[:, None, None] * v
    Your write is scaled by 1 - γ, a moving average: retention adds v kᵀ whole.
"""
