r"""A complex average without complex numbers

*Write one step of Megalodon's complex average in real arithmetic. · 10 minutes · ●●○ · 2 points*

One mode of Megalodon's average keeps a share and turns by an angle at each token:

$$h_t = \mathrm{keep}\; e^{i\, \mathrm{angle}}\; h_{t-1} + α\, x_t \qquad y_t = \mathrm{Re}\,(η\, h_t)$$

A kernel on a GPU has no complex numbers. Keep $h = c + i\, s$ as two real numbers, and $η$ as `eta_re` and `eta_im`. Return $y_t$ and the new c and s. Complex types are not allowed.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch12.shared import rand, randn


def real_pair(x, c, s, keep, angle, alpha, eta_re, eta_im):
    """One token. x () and the rest (N,). Returns y (N,), c (N,), s (N,)."""
    ### BEGIN SOLUTION
    cos, sin = keep * torch.cos(angle), keep * torch.sin(angle)
    c, s = cos * c - sin * s + alpha * x, sin * c + cos * s
    return eta_re * c - eta_im * s, c, s
    ### END SOLUTION


WHY = r"""
**Solution.** $(\cos θ + i \sin θ)(c + i s) = (c \cos θ - s \sin θ) + i\,(c \sin θ + s \cos θ)$: a rotation of the plane, times keep. The input is real, so only c gets it. And $\mathrm{Re}(η h) = η_{re}\, c - η_{im}\, s$.

So a complex average is *two* real ones that feed each other, not two separate ones: with an angle of 0 they separate, and c alone is MEGA's average. The count of state says it as well: 2 N numbers.

*Common mistakes:* c is overwritten before s has read it; the sign of a sine; + in the real part of a product.
"""

HINTS = (
    "Multiply out keep (cos + i sin)(c + i s), and collect the real and the imaginary part.",
    "Real part: keep (cos c - sin s) + α x. Imaginary part: keep (sin c + cos s), both from the old c and s.",
    "c, s = cos * c - sin * s + alpha * x, sin * c + cos * s in one line; then eta_re * c - eta_im * s.",
)


def reference(x, c, s, keep, angle, alpha, eta_re, eta_im):
    h = torch.polar(keep, angle) * torch.complex(c, s) + alpha * x
    return (torch.complex(eta_re, eta_im) * h).real, h.real, h.imag


def cases(rng):
    def case(name, N, turn=None, keep=None, empty=False, scale=1.0):
        c, s = (torch.zeros(N) if empty else randn(rng, N) for _ in range(2))
        inputs = {"x": scale * randn(rng, 1)[0], "c": c, "s": s}
        inputs |= {
            "keep": 0.3 + 0.6 * rand(rng, N) if keep is None else torch.full((N,), keep)
        }
        inputs |= {
            "angle": 6 * rand(rng, N) if turn is None else torch.full((N,), turn)
        }
        inputs |= {
            "alpha": rand(rng, N),
            "eta_re": randn(rng, N),
            "eta_im": randn(rng, N),
        }
        return Case(name, {n: u.requires_grad_() for n, u in inputs.items()})

    return [
        case("the first token", 3, empty=True),
        case("any angles", 5),
        case("an angle of 0", 2, 0.0),
        case("a quarter turn", 2, 1.5707964),
        case("nothing kept", 2, keep=0.0),
        case("everything kept", 3, keep=1.0),
        case("a large input", 2, scale=100.0),
    ]


OUTPUTS = ("y", "c", "s")

TIME_AXIS = None

_COMPLEX = "It makes complex numbers: keep h as two real numbers."

RULED_OUT = {"complex64": _COMPLEX, "complex128": _COMPLEX}


def _by_matrix(x, c, s, keep, angle, alpha, eta_re, eta_im):
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).view(
        -1, 2, 2
    )
    h = keep[:, None] * (turn @ torch.stack([c, s], -1)[..., None])[..., 0]
    c, s = h[:, 0] + alpha * x, h[:, 1]
    return eta_re * c - eta_im * s, c, s


ALTERNATIVES = (_by_matrix,)

MISTAKES = """
c, s = cos * c - sin * s + alpha * x, sin * c + cos * s → c = cos * c - sin * s + alpha * x ⏎ s = sin * c + cos * s
    s is computed from the new c: both parts need the old ones.
cos * c - sin * s → cos * c + sin * s
    A sign in the real part: i² is -1, so sin s is subtracted.
sin * c + cos * s → cos * s - sin * c
    The imaginary part turns the other way: sin c is added.
eta_re * c - eta_im * s → eta_re * c + eta_im * s
    The read has a wrong sign: Re(η h) is η_re c - η_im s.
eta_re * c - eta_im * s → eta_re * c
    The imaginary part of η is not used: Re(η h) has two terms.
sin * c + cos * s → sin * c + cos * s + alpha * x
    The input is written into both parts: it is real, so only c gets it.
cos, sin = keep * torch.cos(angle), keep * torch.sin(angle) → cos, sin = torch.cos(angle), torch.sin(angle)
    Nothing fades: the rotation is multiplied by keep.
+ alpha * x → + (1 - keep) * x
    The input is scaled by 1 - keep: here the write has its own factor α.
cos * c - sin * s → cos * c + sin * s ; sin * c + cos * s → cos * s - sin * c
    The state turns the other way: both sines have the wrong sign.
c, s = cos * c - sin * s + alpha * x, sin * c + cos * s ⏎ return eta_re * c - eta_im * s, c, s → y = eta_re * c - eta_im * s ⏎ c, s = cos * c - sin * s + alpha * x, sin * c + cos * s ⏎ return y, c, s
    The read comes before the step: y_t is read from h_t, with x_t in it.
cos * c - sin * s + alpha * x → cos * (c + alpha * x) - sin * s ; sin * c + cos * s → sin * (c + alpha * x) + cos * s
    The input is rotated with the state: only h_{t-1} is, and x is added afterwards.
cos, sin = keep * torch.cos(angle), keep * torch.sin(angle) → cos, sin = torch.cos(angle), torch.sin(angle) ; cos * c - sin * s + alpha * x → keep * (cos * c - sin * s) + alpha * x
    Only c fades: keep multiplies both parts.
"""
