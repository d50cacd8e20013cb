r"""Bug hunt: selective scan

*Mend Mamba's recurrence in code that was made fast by a well-known trick. · 12 minutes · ●●● · 3 points*

This function computes Mamba's scan without a loop, as some public code does: divide each write by the running product of the gates,
sum, and multiply back. It runs, and on gentle inputs it looks right. It has **two bugs**, one in the mathematics and one in the
numbers. Run the cell below to see two symptoms. Then write the right version into `selective`. A loop over tokens is allowed.
"""

import torch

from seqlab.core.scan import linear_scan
from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch06.shared import _close, _rand, _randn
from seqlab.course.exercises.vocabulary import (
    input_,
    late,
    old_state,
    state_ignored,
    swapped,
)


def selective(x, dt, A, B, C, h):
    """h_t = exp(dt_t A) h_{t-1} + dt_t x_t B_t and y_t = C_t · h_t, with one h (N numbers) for each of E channels.

    x and dt (B, T, E), A (E, N) below 0, B and C (B, T, N), h (B, E, N) before the first token. Returns (y, h): y
    (B, T, E), and h after the last token.
    """
    ### BEGIN SOLUTION
    ys = []
    for t in range(x.shape[1]):
        step = dt[:, t, :, None]
        write = step * x[:, t, :, None] * B[:, t, None]
        h = torch.exp(step * A) * h + write
        ys.append((h * C[:, t, None]).sum(-1))
    return torch.stack(ys, dim=1), h
    ### END SOLUTION


WHY = r"""
**The first bug** is the write. It was discretised like the gate, $(e^{ΔA} - 1)/A \cdot B$, the formula in Mamba's paper. Its code, and
all weights trained with it, have Euler's $Δ B$. For small Δ the two agree, so short tests pass.

**The second bug** is the trick. The running product $P_t = \prod a$ falls to 0, and the writes are divided by it. The small number that was
added to P keeps the result finite but wrong: everything written after P has fallen below it is lost. Here a strong
decay or a hundred tokens are enough.

**How to mend it.** Walk token by token; or scan, which multiplies gates and never divides.

*Common mistakes:* a smaller epsilon moves the length at which it fails. Without one, 0/0 gives NaN.
"""

HINTS = (
    "There are two bugs. One shows with a single token and a long step, the other only after P has become tiny.",
    "The text says how a token is written: dt_t x_t B_t. And which divisions can go wrong when gates are small?",
    "In a loop: step = dt[:, t, :, None]; h = torch.exp(step * A) * h + step * x[:, t, :, None] * B[:, t, None]; "
    "y_t = (h * C[:, t, None]).sum(-1).",
)


def reference(x, dt, A, B, C, h):
    """All pairs: what token j wrote fades by exp(A · the time from j to i); float64."""
    x, dt, A, B, C, h = (u.double() for u in (x, dt, A, B, C, h))
    time = dt.cumsum(1)  # (B, T, E)
    span = time[:, :, None] - time[:, None]  # (B, i, j, E)
    past = torch.ones(x.shape[1], x.shape[1]).tril().bool()[None, :, :, None, None]
    fade = torch.where(past, (span[..., None] * A).exp().nan_to_num(), 0.0)
    writes = (dt * x)[..., None] * B[:, :, None]  # (B, T, E, N)
    hs = (fade * writes[:, None]).sum(2) + (time[..., None] * A).exp() * h[:, None]
    return (hs * C[:, :, None]).sum(-1).float(), hs[:, -1].float()


def cases(rng):
    def case(name, b, T, E, N, low=0.01, high=0.3, empty=False):
        h = torch.zeros(b, E, N) if empty else _randn(rng, b, E, N)
        A = -_rand(rng, E, N, low=0.5, high=4.0)
        x, B, C = _randn(rng, b, T, E), _randn(rng, b, T, N), _randn(rng, b, T, N)
        dt = _rand(rng, b, T, E, low=low, high=high)
        return Case(name, {"x": x, "dt": dt, "A": A, "B": B, "C": C, "h": h})

    closed = case("Δ = 0 at some tokens", 1, 8, 3, 2)
    closed.inputs["dt"][:, 1::2] = 0.0
    return [
        case("T = 1, empty", 2, 1, 3, 4, 0.3, 1.0, empty=True),
        case("T = 1, a state given", 2, 1, 3, 2),
        case("odd T", 2, 7, 4, 3),
        case("N = E", 1, 6, 3, 3),
        closed,
        case("long steps", 2, 5, 3, 4, 1.0, 3.0),
        # Long enough that the running product falls below what float64 can hold, too.
        case("strong decay", 1, 60, 2, 5, 12.0, 20.0),
        case("a hundred tokens", 1, 100, 2, 3, 0.1, 0.4),
    ]


def _half(inputs):
    return (inputs["x"].shape[1] + 1) // 2


def _second_half(inputs):
    t = _half(inputs)
    if t == inputs["x"].shape[1]:
        return []
    time = ("x", "dt", "B", "C")
    _, h = reference(**{**inputs, **{n: inputs[n][:, :t] for n in time}})
    return [{**inputs, **{n: inputs[n][:, t:] for n in time}, "h": h}]


PROPERTIES = (
    Property(
        "two halves = the whole",
        variants=_second_half,
        holds=lambda inputs, outputs: (
            len(outputs) == 1
            or (
                _close(outputs[0][0][:, _half(inputs) :], outputs[1][0])
                and _close(outputs[0][1], outputs[1][1])
            )
        ),
        message="The second half of a text, started from the state after the first half, gives something else than the whole "
        "text at once: look at where the given h enters.",
    ),
)


def parts_hint(t, inputs):
    if t == 0:
        return "is the given h multiplied by exp(dt A), and is dt x B written whole?"
    return "does h go from one token to the next, multiplied by exp(dt_t A) once?"


def _by_scan(x, dt, A, B, C, h):
    hs = linear_scan((dt[..., None] * A).exp(), (dt * x)[..., None] * B[:, :, None], h)
    return torch.einsum("bten,btn->bte", hs, C), hs[:, -1]


def _by_halves(x, dt, A, B, C, h):
    T = x.shape[1]
    if T == 1:
        h = (dt[:, 0, :, None] * A).exp() * h + torch.einsum(
            "be,bn->ben", (dt * x)[:, 0], B[:, 0]
        )
        return torch.einsum("ben,bn->be", h, C[:, 0])[:, None], h
    parts = [
        [u[:, part] for u in (x, dt, B, C)]
        for part in (slice(T // 2), slice(T // 2, None))
    ]
    ys = []
    for x, dt, B, C in parts:
        y, h = _by_halves(x, dt, A, B, C, h)
        ys.append(y)
    return torch.cat(ys, dim=1), h


def _one_channel_at_a_time(x, dt, A, B, C, h):
    ys, hs = [], []
    for e in range(x.shape[2]):
        state, y = h[:, e], []
        for t in range(x.shape[1]):
            state = (dt[:, t, e, None] * A[e]).exp() * state + (dt * x)[
                :, t, e, None
            ] * B[:, t]
            y.append((state * C[:, t]).sum(-1))
        ys.append(torch.stack(y, 1))
        hs.append(state)
    return torch.stack(ys, -1), torch.stack(hs, 1)


ALTERNATIVES = (_by_scan, _by_halves, _one_channel_at_a_time)

OUTPUTS = ("y", "h")

TIME_AXIS = {"y": 1, "h": None}


def by_products(x, dt, A, B, C, h, *, hold=True, tiny=1e-6):
    """The function of the bug hunt."""
    a = torch.exp(dt[..., None] * A)
    gain = (a - 1) / A if hold else dt[..., None] + 0 * A
    write = gain * x[..., None] * B[:, :, None]
    P = a.cumprod(dim=1)
    hs = P * (h[:, None] + (write / (P + tiny)).cumsum(dim=1))
    return (hs * C[:, :, None]).sum(-1), hs[:, -1]


MISTAKES = """
* → return by_products(x, dt, A, B, C, h)
    Both bugs are still there: the write is not dt x B, and it is divided by a product that becomes tiny.
write = step * x[:, t, :, None] * B[:, t, None] → write = (torch.exp(step * A) - 1) / A * x[:, t, :, None] * B[:, t, None]
    The numbers are mended, the write is not: (exp(dt A) - 1) / A is zero-order hold, and Mamba writes dt x B.
* → return by_products(x, dt, A, B, C, h, hold=False)
    The write is mended, the trick is not: writes are still divided by a running product that becomes tiny, so those after
    a strong decay are lost.
* → return by_products(x, dt, A, B, C, h, hold=False, tiny=1e-30)
    The write is mended, and the epsilon is smaller: but the running product still falls below it, and the writes after that
    are lost, or inf. Do not divide.
* → return by_products(x, dt, A, B, C, h, hold=False, tiny=0)
    The write is mended, and the epsilon is gone: now 0 is divided by 0 where the running product has vanished. Do not
    divide.
write = step * x[:, t, :, None] → write = x[:, t, :, None]
    The write lacks dt: it is dt x B.
torch.exp(step * A) * h + write → torch.exp(step * A) * (h + write)
    The token's own write fades too: only the old h is multiplied by exp(dt A).
torch.exp(step * A) → torch.exp(-step * A.exp())
    A is taken for its logarithm, -exp(A): here A is the rate itself, below 0.
torch.exp(step * A) → (1 + step * A)
    The gate is Euler's, 1 + dt A: A is discretised by zero-order hold, exp(dt A). Only B has Euler.
torch.exp(step * A) → torch.exp(A)
    The gate does not depend on dt: it is exp(dt A), so that dt = 0 leaves h as it is.
torch.exp(step * A) → torch.exp(-step * A)
    The gate grows: A is below 0, and the gate is exp(dt A), without a minus.
h = torch.exp(step * A) * h + write ⏎ ys.append((h * C[:, t, None]).sum(-1)) → ys.append((h * C[:, t, None]).sum(-1)) ⏎ h = torch.exp(step * A) * h + write
    The read comes before the write: y_t reads h_t, which holds the token itself.
(h * C[:, t, None]) → (h * B[:, t, None])
    The state is read with B: B writes and C reads.
step = dt[:, t, :, None] → step = torch.nn.functional.softplus(dt[:, t, :, None])
    dt goes through a softplus: here it is the step itself.
torch.exp(step * A) * h + write → torch.exp(step * A) * h + (1 - torch.exp(step * A)) * write
    The write is scaled by 1 - gate: it is dt x B, whole.
"""

ALSO = (
    state_ignored("h"),
    swapped(),
    old_state("h"),
    late("y"),
    input_(
        "A",
        lambda A: A[:1].expand_as(A),
        "All channels use the rates of the first: A (E, N) has a row for each channel.",
    ),
)
