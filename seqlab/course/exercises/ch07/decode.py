r"""One token through the block

*Decode with a Mamba-2: a memory and the last inputs of a convolution. · 20 minutes · ●●● · 3 points*

Write what one token does between the block's first projection and its norm. The projection's output for this token is cut, in this order, into
[z | x | B | C | w]; x, B and C together go through the short convolution of W taps and a silu. `past` holds the last W − 1 *inputs* of
the convolution. Tap W − 1 belongs to this token, tap 0 to the oldest.

$$\Delta = \text{softplus}(w + b) \qquad S \leftarrow e^{-\Delta e^{A_{log}}}\,S + (\Delta x)\,B^\top \qquad y = (S\,C + D\,x)\;\text{silu}(z)$$

All heads share one B and one C. Return y, the new S and the new `past`.
"""

import torch
import torch.nn.functional as F

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch07.shared import _close, _randn
from seqlab.course.exercises.vocabulary import old_state


def decode(projected, taps, conv_bias, A_log, D, dt_bias, S, past):
    """One token. projected (B, H P + (H P + 2 N) + H) is [z | x | B | C | w]; taps (E, W) and conv_bias (E,) with E = H P + 2 N.

    A_log, D, dt_bias (H,); S (B, H, P, N); past (B, W - 1, E), oldest first.
    Returns (y, S, past): y (B, H P), the new S, and the new past.
    """
    ### BEGIN SOLUTION
    batch, H, P, N = S.shape
    z, xBC, w = projected.split([H * P, H * P + 2 * N, H], dim=-1)
    window = torch.cat([past, xBC[:, None]], dim=1)  # (B, W, E)
    heard = F.silu((window * taps.T).sum(1) + conv_bias)
    x, B, C = heard.split([H * P, N, N], dim=-1)
    x = x.view(batch, H, P)
    dt = F.softplus(w + dt_bias)  # (B, H)
    decay = torch.exp(-dt * A_log.exp())[..., None, None]
    S = decay * S + (dt[..., None] * x)[..., None] * B[:, None, None]
    y = torch.einsum("bhpn, bn -> bhp", S, C) + D[:, None] * x
    return y.reshape(batch, H * P) * F.silu(z), S, window[:, 1:]
    ### END SOLUTION


WHY = r"""
**Solution.** A decoder needs two memories. S is the one of this chapter. The other is the convolution's: to hear four tokens back it
must keep the last three inputs, *before* bias and silu, since the next token weights them anew with other taps. Everything else is one
line of the block each, without an axis of time.

What does it cost? For each head P N numbers of S, and three inputs of E numbers for all heads. In Codestral Mamba the second part is
0.03 of the first.

*Common mistakes:* keeping the convolution's outputs in place of its inputs; the taps backwards; Δ on the gate but not on the write; the gate z
before D x is added.
"""

HINTS = (
    "Do the convolution first: which W inputs does this token hear, and which of them must the next one keep?",
    "window = past and this input, W in all, oldest first; its weighted sum with taps, plus bias, through silu. The new past is window[:, 1:].",
    "x, B, C = F.silu((window * taps.T).sum(1) + conv_bias).split([H * P, N, N], -1); dt = F.softplus(w + dt_bias); then decay, write, "
    "read, D x, silu(z).",
)


def reference(projected, taps, conv_bias, A_log, D, dt_bias, S, past):
    """By a convolution of PyTorch, and a loop over heads."""
    H, P, N = S.shape[1:]
    E = taps.shape[0]
    z, xBC, w = (
        projected[:, : H * P],
        projected[:, H * P : H * P + E],
        projected[:, H * P + E :],
    )
    both = torch.cat([past.mT, xBC[..., None]], -1)
    heard = F.silu(F.conv1d(both, taps[:, None], conv_bias, groups=E)[..., 0])
    B, C = heard[:, H * P : H * P + N], heard[:, H * P + N :]
    ys, states = [], []
    for h in range(H):
        x = heard[:, h * P : (h + 1) * P]
        dt = torch.log1p(torch.exp(w[:, h] + dt_bias[h]))[:, None]
        a = torch.exp(-dt * torch.exp(A_log[h]))
        states.append(a[..., None] * S[:, h] + torch.einsum("bp, bn -> bpn", dt * x, B))
        ys.append((states[-1] @ C[..., None])[..., 0] + D[h] * x)
    y = torch.cat(ys, -1) * z * torch.sigmoid(z)
    return y, torch.stack(states, 1), both[..., 1:].mT


def cases(rng):
    def case(name, B, H, P, N, W, fresh=False, scale=1.0):
        E = H * P + 2 * N
        S, past = _randn(rng, B, H, P, N), _randn(rng, B, W - 1, E)
        inputs = {
            "projected": scale * _randn(rng, B, H * P + E + H),
            "taps": _randn(rng, E, W) / 2,
            "conv_bias": _randn(rng, E),
            "A_log": torch.rand(H, generator=rng),
            "D": 1 + _randn(rng, H) / 4,
            "dt_bias": _randn(rng, H),
            "S": 0 * S if fresh else S,
            "past": 0 * past if fresh else past,
        }
        return Case(name, inputs)

    return [
        case("the first token", 2, 2, 3, 4, 4, fresh=True),
        case("H = P = N", 2, 3, 3, 3, 4),
        case("one head", 1, 1, 4, 2, 4),
        case("P ≠ N, two taps", 2, 3, 2, 5, 2),
        case("no short convolution, W = 1", 2, 2, 3, 4, 1),
        case("large values", 1, 2, 2, 3, 4, scale=5.0),
    ]


def _next_token(inputs):
    _, S, past = reference(**inputs)
    return [{**inputs, "S": S, "past": past}]


def _goes_on(inputs, outputs):
    (_, S, past), (y, _, _) = outputs
    return _close(reference(**{**inputs, "S": S, "past": past})[0], y)


PROPERTIES = (
    Property(
        "a second token",
        variants=_next_token,
        holds=_goes_on,
        message="A second token, fed with the S and past that you return, goes wrong: does past hold the last W - 1 inputs, oldest first?",
    ),
)

OUTPUTS = ("y", "S", "past")

TIME_AXIS = None


def _with_matmul(projected, taps, conv_bias, A_log, D, dt_bias, S, past):
    batch, H, P, N = S.shape
    E = taps.shape[0]
    z, fresh, w = torch.split(projected, (H * P, E, H), 1)
    heard = (
        torch.einsum("ew, bwe -> be", taps[:, :-1], past)
        + taps[:, -1] * fresh
        + conv_bias
    )
    heard = heard * heard.sigmoid()
    x, BC = heard[:, : H * P].reshape(batch, H, P), heard[:, H * P :]
    dt = F.softplus(w + dt_bias)[..., None]
    left = (dt * -torch.exp(A_log)[:, None]).exp()
    S = S * left[..., None] + torch.matmul((dt * x)[..., None], BC[:, None, None, :N])
    y = torch.matmul(S, BC[:, None, N:, None])[..., 0] + x * D.view(1, H, 1)
    return y.flatten(1) * F.silu(z), S, torch.cat([past, fresh[:, None]], 1)[:, 1:]


ALTERNATIVES = (_with_matmul,)

MISTAKES = """
window[:, 1:] → torch.cat([past, heard[:, None]], dim=1)[:, 1:]
    The new past holds the convolution's output, after bias and silu. The next token weights the inputs
    anew: keep those.
taps.T → taps.flip(1).T
    The taps run backwards: the last tap belongs to this token, tap 0 to the oldest.
F.silu((window * taps.T).sum(1) + conv_bias) → (window * taps.T).sum(1) + conv_bias
    The silu after the convolution is missing: x, B and C all pass through it.
(window * taps.T).sum(1) + conv_bias → (window * taps.T).sum(1)
    The bias of the convolution is missing.
window = torch.cat([past, xBC[:, None]], dim=1) → window = torch.cat([0 * past, xBC[:, None]], dim=1)
    The past is ignored: the convolution hears this token alone, and the inputs before it are lost.
F.softplus(w + dt_bias) → F.softplus(w)
    Δ lacks its bias b: softplus of w + b.
F.softplus(w + dt_bias) → F.softplus(w) + dt_bias
    The bias is added after the softplus: it belongs inside, softplus(w + b).
F.softplus(w + dt_bias) → (w + dt_bias).exp()
    Δ is exp(w + b): it is softplus(w + b).
(dt[..., None] * x)[..., None] → x[..., None]
    The write lacks Δ: the value is Δ x, so that one step rules both gate and write.
-dt * A_log.exp() → -A_log.exp() + 0 * dt
    The gate lacks Δ: it is e^(Δ A), so a small step forgets little.
-dt * A_log.exp() → -dt * A_log
    A_log is used as if it were A: the decay's rate is its exponential.
-dt * A_log.exp() → dt * A_log.exp()
    The gate grows: A is negative, so the exponent is -Δ e^(A_log).
decay * S + (dt[..., None] * x)[..., None] * B[:, None, None] → decay * (S + (dt[..., None] * x)[..., None] * B[:, None, None])
    The new write is decayed too: decay the old state, then write.
+ D[:, None] * x →
    The skip is missing: D x goes around the memory.
* F.silu(z) →
    The gate silu(z) is missing.
* F.silu(z) → * torch.sigmoid(z)
    The gate is sigmoid(z): it is silu(z), which is z times that.
+ D[:, None] * x → + D[:, None] * x * 0 + D[:, None] * xBC[:, : H * P].reshape(batch, H, P)
    The skip takes x from before the convolution: it is D times the x that the memory gets.
x, B, C = heard.split → x, C, B = heard.split
    B and C have changed places: the order is x, B, C.
y = torch.einsum("bhpn, bn -> bhp", S, C) → y = torch.einsum("bhpn, bn -> bhp", (S - (dt[..., None] * x)[..., None] * B[:, None, None]), C)
    The read comes before the write: a token reads its own write too.
"""

ALSO = (
    old_state("S", 1),
    old_state(
        "past",
        2,
        says="The past that you return is the one you were given: drop its oldest input, and put this token's behind the others.",
    ),
)
