r"""A gate that turns, in real numbers

*Write a complex gate without complex tensors. · 12 minutes · ●●○ · 2 points*

GateLoop's gate is complex: column c of the state fades by $|a|$ and turns by an angle θ at each token. k, v and q are real, and the output is the real part:

$$S_t = S_{t-1}\,\mathrm{diag}\bigl(|a_t|\, e^{i θ_t}\bigr) + v_t k_t^\top, \qquad y_t = \mathrm{Re}(S_t q_t) .$$

Kernels and half precision have no complex numbers, so the real part and the imaginary part of S are kept apart. Write one step for all heads.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch05.shared import _gates, _randn
from seqlab.course.exercises.vocabulary import heads_mixed, input_, scaled


def turn(re, im, q, k, v, log_a, theta):
    """One token: S = re + i im turns by theta and fades by exp(log_a) in each column, then v kᵀ is written; y = Re(S q).

    re and im (B, H, V, K), q, k, log_a and theta (B, H, K), v (B, H, V). Returns (y, re, im).
    """
    ### BEGIN SOLUTION
    a = log_a.exp()[..., None, :]
    cos, sin = theta.cos()[..., None, :], theta.sin()[..., None, :]
    write = v[..., :, None] * k[..., None, :]
    new_re = a * (re * cos - im * sin) + write
    new_im = a * (re * sin + im * cos)
    return (new_re @ q[..., None])[..., 0], new_re, new_im
    ### END SOLUTION


WHY = r"""
**Solution.** $(x + iy)(\cos θ + i \sin θ) = (x \cos θ - y \sin θ) + i\,(x \sin θ + y \cos θ)$, and both parts fade by $|a|$. The write is real, so it joins
the real part alone. q is real, so the real part of the read needs the real part of S alone; but the imaginary part must be carried, because the next
turn brings it back.

*Common mistakes:* overwriting re before im is computed from the old one; turning the write as well; leaving out im, so that nothing ever comes back.
"""

HINTS = (
    "Multiply (re + i im) by (cos θ + i sin θ), and collect real and imaginary parts.",
    "re' = a (re cos θ - im sin θ) + v kᵀ and im' = a (re sin θ + im cos θ), both from the old re and im; y = re' q.",
    "a, cos, sin each get [..., None, :]; new_re = a * (re * cos - im * sin) + v[..., :, None] * k[..., None, :]; "
    "new_im = a * (re * sin + im * cos).",
)


def reference(re, im, q, k, v, log_a, theta):
    """With complex numbers, in complex128."""
    gate = torch.polar(log_a.double().exp(), theta.double())
    S = torch.complex(re.double(), im.double()) * gate[..., None, :]
    S = S + v.double()[..., None] * k.double()[..., None, :]
    y = torch.einsum("bhvk, bhk -> bhv", S, q.double().to(S.dtype)).real
    return y.float(), S.real.float(), S.imag.float()


def cases(rng):
    def case(name, B, H, K, V, theta=None, empty=False, low=0.3):
        parts = {
            n: torch.zeros(B, H, V, K) if empty else _randn(rng, B, H, V, K)
            for n in ("re", "im")
        }
        one = {n: _randn(rng, B, H, w) for n, w in (("q", K), ("k", K), ("v", V))}
        theta = (
            2 * _randn(rng, B, H, K) if theta is None else torch.full((B, H, K), theta)
        )
        log_a = _gates(rng, B, H, K, low=low)
        return Case(
            name,
            {**parts, **one, "log_a": log_a.requires_grad_(), "theta": theta},
        )

    return [
        case("an empty state", 2, 2, 3, 4, empty=True),
        case("no turn", 2, 2, 3, 5, theta=0.0),
        case("a quarter turn", 1, 2, 4, 2, theta=torch.pi / 2),
        case("K ≠ V", 2, 3, 5, 2),
        case("K = V = H", 3, 4, 4, 4),
        case("many turns", 1, 2, 3, 4, theta=40.0),
        case("strong decay", 2, 1, 4, 3, low=0.001),
    ]


OUTPUTS = ("y", "re", "im")

TIME_AXIS = None


def _by_matrix(re, im, q, k, v, log_a, theta):
    """A turn as a 2 × 2 matrix on (re, im)."""
    cos, sin = theta.cos(), theta.sin()
    R = torch.stack([torch.stack([cos, -sin]), torch.stack([sin, cos])]) * log_a.exp()
    S = torch.einsum("pqbhk, qbhvk -> pbhvk", R, torch.stack([re, im]))
    new = S[0] + torch.einsum("bhv, bhk -> bhvk", v, k)
    return torch.einsum("bhvk, bhk -> bhv", new, q), new, S[1]


def _by_length_and_angle(re, im, q, k, v, log_a, theta):
    size = (re.square() + im.square()).sqrt() * log_a.exp().unsqueeze(-2)
    angle = torch.atan2(im, re) + theta.unsqueeze(-2)
    new = size * angle.cos() + v.unsqueeze(-1) * k.unsqueeze(-2)
    return (new * q.unsqueeze(-2)).sum(-1), new, size * angle.sin()


ALTERNATIVES = (_by_matrix, _by_length_and_angle)

_COMPLEX = "The values are right, but complex tensors were made: keep the real and the imaginary part apart."

RULED_OUT = {"complex64": _COMPLEX, "complex128": _COMPLEX}

MISTAKES = """
new_re = a * (re * cos - im * sin) + write → new_re = a * (re * cos + im * sin) + write ; new_im = a * (re * sin + im * cos) → new_im = a * (im * cos - re * sin)
    It turns the other way: this is a multiplication by exp(-iθ).
new_im = a * (re * sin + im * cos) → new_im = a * (new_re * sin + im * cos)
    The imaginary part is made from the new real part: both come from the old ones.
new_im = a * (re * sin + im * cos) → new_im = a * ((new_re - write) * sin + im * cos)
    The imaginary part is made from a real part that has already turned: both come from the old ones.
re * cos - im * sin → re * cos + im * sin
    A sign is wrong in the real part: i · i = -1, so it is re cos θ - im sin θ.
re * cos - im * sin) → re * cos)
    The imaginary part never comes back: the real part is re cos θ - im sin θ.
new_im = a * (re * sin + im * cos) → new_im = a * (re * sin + im * cos) + write
    The write is added to both parts: v kᵀ is real.
new_im = a * (re * sin + im * cos) → new_im = re * sin + im * cos
    The imaginary part turns, but does not fade: both parts are multiplied by |a|.
a * (re * cos - im * sin) + write → a * (re * cos - im * sin + write)
    The new pair fades too: turn and fade first, then write.
a * (re * cos - im * sin) + write → a * (re * cos - im * sin) + write * cos ; new_im = a * (re * sin + im * cos) → new_im = a * (re * sin + im * cos) + write * sin
    The write is turned as well: only what was in the state turns.
new_im = a * (re * sin + im * cos) → new_im = a * im
    The imaginary part does not turn: it is re sin θ + im cos θ, faded.
a = log_a.exp()[..., None, :] → a = log_a[..., None, :]
    log_a is used as the factor itself: it is a logarithm, so exp is missing.
return (new_re @ q[..., None])[..., 0], new_re, new_im → return ((new_re + new_im) @ q[..., None])[..., 0], new_re, new_im
    Both parts are read: y is the real part of S q, and q is real, so it is the real part of S alone.
return (new_re @ q[..., None])[..., 0], new_re, new_im → return ((new_re - write) @ q[..., None])[..., 0], new_re, new_im
    Your read comes before the write: a token reads its own pair too.
theta.cos()[..., None, :], theta.sin()[..., None, :] → theta.sin()[..., None, :], theta.cos()[..., None, :]
    Sine and cosine have changed places: at θ = 0 nothing should turn.
"""

ALSO = (
    scaled("q"),
    heads_mixed("theta", 1),
    heads_mixed("log_a", 1),
    input_(
        "theta",
        lambda theta: theta * torch.pi / 180,
        "theta is taken for degrees: it is in radians.",
    ),
)
