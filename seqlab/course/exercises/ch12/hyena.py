r"""Hyena of any order

*Write the operator with several gates and filters. · 10 minutes · ●●○ · 2 points*

The chapter has order 2: one gate, one filter, one gate. At order N there are gates $x_0, \dots, x_{N-1}$ and filters $h_1, \dots, h_{N-1}$, each with a skip b. Start with the value v, and from the last gate down to gate 1 repeat

$$v \;\leftarrow\; h_i * (x_i \odot v) + b_i\, (x_i \odot v) \qquad i = N - 1, \dots, 1$$

Then multiply by $x_0$. `h[i - 1]` and `b[i - 1]` belong to gate i. Any way to convolve is fine, if nothing comes from the future.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch12.shared import randn


def hyena(x, v, h, b):
    """x (N, T, D), v (T, D), h (N - 1, T, D), newest token first, b (N - 1, D). Returns (T, D)."""
    ### BEGIN SOLUTION
    T = len(v)
    age = torch.arange(T)[:, None] - torch.arange(T)
    for i in range(len(x) - 1, 0, -1):
        z = x[i] * v
        matrix = h[i - 1][age.clamp(min=0)] * (age >= 0)[..., None]  # (T, T, D)
        v = torch.einsum("tsd, sd -> td", matrix, z) + b[i - 1] * z
    return x[0] * v
    ### END SOLUTION


WHY = r"""
**Solution.** Each round is a matrix with the filter on its diagonals, times a diagonal matrix of the gate. So the whole operator is $D_0\, H_1 D_1\, H_2 D_2 \cdots$: a product of fixed matrices and of diagonal ones that the text chooses. Order 3 is close to H3, whose first filter is the short shift.

A gate selects what is written at *its* token only. With more orders, tokens that a first filter has carried on can be selected again.

*Common mistakes:* the gate after the filter; the skip of v instead of $x_i v$; gates in rising order.
"""

HINTS = (
    "A loop over i from N - 1 down to 1; the gate comes before the filter.",
    "In each round z = x[i] * v is both convolved and multiplied by b[i - 1].",
    "for i in range(len(x) - 1, 0, -1): z = x[i] * v; v = conv(h[i - 1], z) + b[i - 1] * z. Then x[0] * v.",
)


def reference(x, v, h, b):
    """As one T x T matrix for each channel, multiplied up."""
    N, T, D = x.shape
    out = []
    for d in range(D):
        M = torch.diag(x[0, :, d])
        for i in range(1, N):
            H = torch.stack(
                [
                    torch.cat([h[i - 1, : t + 1, d].flip(0), torch.zeros(T - 1 - t)])
                    for t in range(T)
                ]
            )
            M = M @ (H + b[i - 1, d] * torch.eye(T)) @ torch.diag(x[i, :, d])
        out.append(M @ v[:, d])
    return torch.stack(out, 1)


def cases(rng):
    def case(name, N, T, D, scale=1.0):
        inputs = {"x": randn(rng, N, T, D), "v": scale * randn(rng, T, D)}
        inputs |= {"h": randn(rng, N - 1, T, D), "b": randn(rng, N - 1, D)}
        return Case(name, {n: u.requires_grad_() for n, u in inputs.items()})

    return [
        case("T = 1", 2, 1, 3),
        case("order 2", 2, 7, 2),
        case("order 3", 3, 6, 2),
        case("order 4, one channel", 4, 5, 1),
        case("large values", 2, 4, 3, 100.0),
    ]


OUTPUTS = ("y",)

TIME_AXIS = {"y": 0}


def _by_fft(x, v, h, b):
    n = 2 * len(v)
    for gate, taps, skip in zip(x[1:].flip(0), h.flip(0), b.flip(0), strict=True):
        z = gate * v
        spectrum = torch.fft.rfft(taps, n, dim=0) * torch.fft.rfft(z, n, dim=0)
        v = torch.fft.irfft(spectrum, n, dim=0)[: len(v)] + skip * z
    return v * x[0]


ALTERNATIVES = (_by_fft,)

MISTAKES = """
range(len(x) - 1, 0, -1) → range(1, len(x))
    The gates come in rising order: the last gate is the first to act on v.
b[i - 1] * z → b[i - 1] * v
    The skip takes v: it takes the gated value, like the filter.
z = x[i] * v → z = v ; return x[0] * v → return x.prod(0) * v
    The gates come after the filters: each acts on what goes into its filter.
+ b[i - 1] * z →
    The skip is missing: b times the gated value is added.
return x[0] * v → return v
    The last gate is missing: multiply by x_0 at the end.
h[i - 1][age.clamp(min=0)] * (age >= 0)[..., None] → h[i - 1][age % T]
    The filter closes on a circle: the first outputs hold the last tokens.
h[i - 1][age.clamp(min=0)] * (age >= 0)[..., None] → h[i - 1][(-age).clamp(min=0)] * (age <= 0)[..., None]
    The filter looks into the future: the weight of token s at t is h_{t-s}, for s at most t.
matrix = h[i - 1] → matrix = h[len(h) - i]
    The filters are in the other order: h[i - 1] belongs to gate i.
z = x[i] * v → z = v ; v = torch.einsum("tsd, sd -> td", matrix, z) + b[i - 1] * z → v = x[i] * (torch.einsum("tsd, sd -> td", matrix, z) + b[i - 1] * z)
    The gate comes after its filter: it acts on what goes into the filter and the skip.
range(len(x) - 1, 0, -1) → range(len(x) - 1) ; matrix = h[i - 1] → matrix = h[i] ; b[i - 1] * z → b[i] * z ; return x[0] * v → return x[-1] * v
    The gates are in the other order: gate N - 1 acts first, and x_0 comes last of all.
"""
