r"""Bug hunt: the factor of the write

*Mend a square root that loses small numbers and has an infinite slope. · 12 minutes · ●●● · 3 points*

The function in the next cell computes $\sqrt{1 - a^2}$ from $\log a ≤ 0$. For most gates it is right, and so is its gradient. It has **two bugs**: for gates very close to 1 its *value* is wrong, and its *gradient* breaks training. Run the cell and read the symptoms. Then write the right version into `mended`:

- the value is right to float32's precision for every $\log a ≤ 0$, and 0 for $\log a = 0$;
- the slope of the square root, $1 / (2\sqrt{u})$ with $u = 1 - a^2$, is replaced by `steepest` wherever it is larger (the authors' code takes 1,000). The slope of u itself stays as it is.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch11.shared import rand


def mended(log_a, steepest):
    """√(1 - a²), with a slope of the root of at most steepest. log_a at most 0, any shape."""
    ### BEGIN SOLUTION
    u = -torch.expm1(2 * log_a)
    root = u.detach().sqrt()
    slope = 1 / (2 * root).clamp(min=1 / steepest)
    return root + slope * (u - u.detach())
    ### END SOLUTION


WHY = r"""
**The first bug**: $1 - e^{2 \log a}$ subtracts two numbers that are nearly equal. In float32 $e^{2 \log a}$ rounds to 1 as soon as $|\log a| < 1.5 · 10^{-8}$, and the value is 0; before that it is a coarse stair. `expm1` computes the difference itself.

**The second bug**: $\sqrt u$ has slope $1/(2\sqrt u)$, infinite at u = 0. One channel with $a = 1$ exactly (a gate $r$ that rounds to 0) makes the gradient of $\log a$ infinite, and the gradient of r, which multiplies it by 0 or adds another infinity, is not a number. An epsilon under the root hides it, and changes every value near a = 1.

The mend writes the value and the slope separately. $u - u.\mathrm{detach}()$ is 0 and has the gradient of u, so the value is the exact root, and the slope is ours. A `torch.autograd.Function` does the same.

*Common mistakes:* clipping the *gradient of log a* at 1,000; an epsilon; `clamp` on u, which has slope 0 below its bound.
"""

HINTS = (
    "One bug is a subtraction of nearly equal numbers. The other is the slope of a square root at 0.",
    "torch.expm1(x) is exp(x) - 1. For the slope: u - u.detach() is 0, and has the gradient of u.",
    "u = -torch.expm1(2 * log_a); root = u.detach().sqrt(); slope = 1 / (2 * root).clamp(min=1 / steepest); root + slope * (u - u.detach()).",
)


class _Root(torch.autograd.Function):
    """The reference: forward and backward written out."""

    @staticmethod
    def forward(ctx, log_a, steepest):
        ctx.save_for_backward(log_a)
        ctx.steepest = steepest
        return (-torch.expm1(2 * log_a.double())).sqrt().to(log_a.dtype)

    @staticmethod
    def backward(ctx, *grads):
        (log_a,) = ctx.saved_tensors
        x = log_a.double()
        root = (-torch.expm1(2 * x)).sqrt()
        slope = (0.5 / root).clamp(max=ctx.steepest)
        return (grads[0] * slope * -2 * (2 * x).exp()).to(log_a.dtype), None


def reference(log_a, steepest):
    return _Root.apply(log_a, steepest)


def cases(rng):
    def case(name, low, high, *shape, steepest=1000.0):
        exponents = low + (high - low) * rand(rng, *shape)
        log_a = (-(10**exponents)).requires_grad_()
        return Case(name, {"log_a": log_a, "steepest": steepest})

    at_one = torch.tensor([0.0, 0.0, -0.3])
    shut = torch.tensor([-1.0, -90.0])
    return [
        case("ordinary gates", -1.5, 0.5, 2, 5),
        case("one gate", -1.0, -0.5, 1),
        case("slow gates", -5.0, -3.0, 6),
        case("so slow that the slope is held", -9.5, -7.5, 4),
        case("another bound", -3.5, -1.0, 7, steepest=10.0),
        Case("a = 1", {"log_a": at_one.requires_grad_(), "steepest": 1000.0}),
        Case("a = 0", {"log_a": shut.requires_grad_(), "steepest": 1000.0}),
    ]


OUTPUTS = ("factor",)

TIME_AXIS = None


def _by_hook(log_a, steepest):
    class Root(torch.autograd.Function):
        @staticmethod
        def forward(ctx, u):
            ctx.save_for_backward(u)
            return u.sqrt()

        @staticmethod
        def backward(ctx, *grads):
            (u,) = ctx.saved_tensors
            return grads[0] / torch.sqrt(4 * u.clamp(min=1 / (4 * steepest**2)))

    return Root.apply(-torch.expm1(2 * log_a))


ALTERNATIVES = (_by_hook,)

MISTAKES = """
u = -torch.expm1(2 * log_a) → u = 1 - torch.exp(2 * log_a)
    Small values are lost: 1 - exp(2 log a) subtracts two numbers that are nearly equal.
root = u.detach().sqrt() ⏎ slope = 1 / (2 * root).clamp(min=1 / steepest) ⏎ return root + slope * (u - u.detach()) → return (u + 1e-6).sqrt()
    An epsilon of 1e-6 under the root changes the value wherever a is near 1: the value must stay exact.
root = u.detach().sqrt() ⏎ slope = 1 / (2 * root).clamp(min=1 / steepest) ⏎ return root + slope * (u - u.detach()) → return u.clamp(min=2.5e-7).sqrt()
    The value is held from below at 0.0005: only the slope may be held.
-torch.expm1(2 * log_a) → -torch.expm1(log_a)
    This is √(1 - a): a has to be squared, so log a is doubled.
return root + slope * (u - u.detach()) → return u
    The square root is missing.
u = -torch.expm1(2 * log_a) → u = -2 * log_a
    This is the first term of 1 - a² alone: right near a = 1, too large elsewhere.
"""
