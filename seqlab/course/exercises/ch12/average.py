r"""An average that carries on

*Compute MEGA's damped average of a chunk as a convolution, with a first state. · 15 minutes · ●●○ · 2 points*

One channel has N damped averages. With $a_n = 1 - α_n δ_n$,

$$h_{t,n} = a_n\, h_{t-1,n} + α_n β_n\, x_t \qquad y_t = \sum_n η_n\, h_{t,n}$$

The chapter starts from an empty state. Here a chunk of a longer text comes, and `h` is the state after what was before. Return all $y_t$ of the chunk and the state after it. **No loop over time:** $y$ is a convolution plus what the first state still says, and the last state is a weighted sum of the inputs.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch12.shared import rand, randn


def average(x, alpha, delta, beta, eta, h):
    """x (T,), the rest (N,). Returns y (T,) and the last state (N,)."""
    ### BEGIN SOLUTION
    T = len(x)
    a = (1 - alpha * delta)[:, None]
    powers = a ** torch.arange(T)  # (N, T)
    kernel = (eta * alpha * beta) @ powers
    age = torch.arange(T)[:, None] - torch.arange(T)
    y = torch.where(age >= 0, kernel[age.clamp(min=0)], 0.0) @ x
    y = y + (eta * h) @ (powers * a)
    last = h * a[:, 0] ** T + alpha * beta * (powers.flip(1) @ x)
    return y, last
    ### END SOLUTION


WHY = r"""
**Solution.** Unroll: $h_t = a^{t+1} h + \sum_{s \le t} a^{t-s}\, αβ\, x_s$. The sum gives a kernel $\sum_n η_n α_n β_n a_n^l$, and the first state fades by itself: at the first token of the chunk it has faded once, hence $a^{t+1}$. After the chunk the newest input has the weight 1 and the oldest $a^{T-1}$.

So a text can be read in chunks, each by a convolution, with N numbers handed over. It works because the kernel is made of N exponentials. For Hyena's filter there is no such h.

*Common mistakes:* $a^t$ for the first state; β only in one of the two places; powers that are not turned round for the last state.
"""

HINTS = (
    "Unroll the recurrence twice, from h on: what is multiplied by which power of a?",
    "h_t = a^(t+1) h + Σ_{s ≤ t} a^(t-s) α β x_s. Read it with η for y; take t = T - 1 for the last state.",
    "powers = a[:, None] ** arange(T); kernel = (eta * alpha * beta) @ powers; y = conv(kernel, x) + (eta * h) @ (powers * a[:, None]); last = h * a ** T + alpha * beta * (powers.flip(1) @ x).",
)


def reference(x, alpha, delta, beta, eta, h):
    """Token by token."""
    ys = []
    for u in x:
        h = h - alpha * delta * h + alpha * beta * u
        ys.append((eta * h).sum())
    return torch.stack(ys), h


def cases(rng):
    def case(name, T, N, low=0.1, high=0.9, empty=False, scale=1.0):
        gates = [low + (high - low) * rand(rng, N) for _ in range(2)]
        h = torch.zeros(N) if empty else randn(rng, N)
        inputs = {"x": scale * randn(rng, T), "alpha": gates[0], "delta": gates[1]}
        inputs |= {"beta": randn(rng, N), "eta": randn(rng, N), "h": h}
        return Case(name, {n: u.requires_grad_() for n, u in inputs.items()})

    return [
        case("T = 1", 1, 3),
        case("odd T", 9, 4),
        case("an empty state", 6, 2, empty=True),
        case("one average", 7, 1),
        case("slow averages", 12, 3, 0.01, 0.05),
        case("large inputs", 5, 2, scale=100.0),
        case("a long chunk", 120, 2),
    ]


def effort(inputs, cost):
    T = len(inputs["x"])
    if not cost.gradient_finite:
        return "The values are right, but a gradient is NaN or inf: powers of a small a become 0, and something is divided by them (or their log is taken). Use powers with exponents of 0 and more, and no division."
    if T >= 100 and cost.calls >= T:
        return f"The values are right, but this walks over tokens: {cost.calls} torch operations for {T}. Use a kernel and powers of a."
    return None


OUTPUTS = ("y", "h")

TIME_AXIS = {"y": 0, "h": None}


def _by_fft(x, alpha, delta, beta, eta, h):
    T, a = len(x), 1 - alpha * delta
    steps = torch.arange(T)
    kernel = torch.einsum("n, nt -> t", eta * alpha * beta, a[:, None] ** steps)
    y = torch.fft.irfft(
        torch.fft.rfft(kernel, 2 * T) * torch.fft.rfft(x, 2 * T), 2 * T
    )[:T]
    y = y + (eta * h * a ** (steps[:, None] + 1)).sum(1)
    return y, a**T * h + (
        (alpha * beta) * a ** (T - 1 - steps[:, None]) * x[:, None]
    ).sum(0)


ALTERNATIVES = (_by_fft,)

MISTAKES = """
(powers * a) → powers
    The first state is read before it has faded: at the first token of the chunk it has faded once.
a = (1 - alpha * delta)[:, None] → a = (1 - alpha)[:, None]
    The damping δ is missing: 1 - α δ is kept.
kernel = (eta * alpha * beta) @ powers → kernel = (eta * beta) @ powers
    α is missing from the write in y: α β x is added to the state.
y = y + (eta * h) @ (powers * a) ⏎ →
    The first state is not read: it still fades away in y.
h * a[:, 0] ** T + →
    The last state has forgotten the first one: a^T of it is left.
powers.flip(1) @ x → powers @ x
    In the last state the oldest input has the largest weight: turn the powers round.
(eta * h) @ → h.sum() * eta @
    The first states are added up before they are read: each has its own η.
(eta * h) @ → h @
    The first state is read without η.
torch.where(age >= 0, kernel[age.clamp(min=0)], 0.0) → kernel[age % T]
    The convolution closes on a circle: append zeros, up to 2T.
y = y + (eta * h) @ (powers * a) ⏎ → ; h * a[:, 0] ** T + →
    The first state is ignored: it fades away in y, and a^T of it is left at the end.
kernel = (eta * alpha * beta) @ powers → kernel = (eta * alpha) @ powers ; + alpha * beta * (powers.flip(1) @ x) → + alpha * (powers.flip(1) @ x)
    β is missing from the write: α β x is added to the state.
a[:, 0] ** T → a[:, 0] ** (T - 1)
    In the last state the first one has faded once too few: a^T of it is left.
return y, last → return y, eta * last
    The last state is multiplied by η: only the read is.
"""
