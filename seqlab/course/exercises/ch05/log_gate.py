r"""A gate that starts near 1

*Compute the logarithm of a gate without losing it. · 6 minutes · ●○○ · 1 point*

Gated retention and GLA have the gate $a = σ(z)^{1/τ}$. What the recurrence needs is its logarithm. Write `log_gate(z, tau)`, which
returns $\ln a$ for any z. Training produces z of -200 and lower now and then: the answer must be finite there, and so must its
gradient with respect to z.
"""

import torch
import torch.nn.functional as F

from seqlab.course.exercise import Case
from seqlab.course.exercises.vocabulary import input_


def log_gate(z, tau):
    """The logarithm of σ(z)^(1/tau), elementwise. z (B, T, H), tau a number. Returns log_a (B, T, H), at most 0."""
    ### BEGIN SOLUTION
    return F.logsigmoid(z) / tau
    ### END SOLUTION


WHY = r"""
**Solution.** A power inside a logarithm is a factor: $\ln σ(z)^{1/τ} = \ln σ(z) / τ$. And `logsigmoid` computes $\ln σ(z)$ as
$-\ln(1 + e^{-z})$, for large negative z as z itself, so nothing underflows.

*Common mistakes:* `torch.sigmoid(z).log()` is right until σ rounds to 0, at z of about -104 in float32: then it is -inf. A small number added
inside the logarithm makes the value finite and the gradient 0, so a gate that has closed can never open again.
"""

HINTS = (
    "What is the logarithm of a power?",
    "ln σ(z) = -ln(1 + exp(-z)), and PyTorch has a function for it that does not underflow.",
    "torch.nn.functional.logsigmoid(z) / tau.",
)


def reference(z, tau):
    """-ln(1 + exp(-z)) / tau, where exp(-z) may be huge: split at 0, in float64."""
    z = z.double()
    return ((z.clamp(max=0) - torch.log1p((-z.abs()).exp())) / tau).float()


def cases(rng):
    def case(name, *shape, tau=16.0, shift=0.0, size=1.0):
        z = size * torch.randn(*shape, generator=rng) + shift
        return Case(name, {"z": z.requires_grad_(), "tau": tau})

    return [
        case("T = 1", 2, 1, 3),
        case("odd T", 2, 7, 3),
        case("tau = 1", 1, 6, 2, tau=1.0),
        case("open gates", 2, 5, 4, shift=9.0),
        case("closed gates", 2, 5, 4, shift=-12.0, tau=8.0),
        case("z of -200 and lower", 1, 9, 3, shift=-300.0, size=30.0),
        case("all kinds", 2, 9, 3, size=40.0, tau=4.0),
    ]


def effort(inputs, cost):
    if cost.gradient_finite:
        return None
    return "The values are right, but the gradient of z is NaN or inf somewhere: σ(z) rounds to 0 there, and its logarithm has an infinite slope."


OUTPUTS = ("log_a",)

TIME_AXIS = 1

ALTERNATIVES = (
    lambda z, tau: -F.softplus(-z) / tau,
    lambda z, tau: -torch.logaddexp(torch.zeros_like(z), -z) / tau,
    lambda z, tau: (z.clamp(max=0) - torch.log1p((-z.abs()).exp())) / tau,
)

MISTAKES = """
* → return torch.sigmoid(z).log() / tau
    For very negative z this is -inf: either σ(z) has rounded to 0 before its logarithm is taken, or exp(-z) has overflowed inside
    it. Take logarithm and sigmoid at once: logsigmoid.
* → return (torch.sigmoid(z) + 1e-6).log() / tau
    A small number is added inside the logarithm: closed gates are all cut off at the same value, and their gradient is 0. Take
    logarithm and sigmoid at once: logsigmoid.
* → return (z - torch.logsumexp(torch.stack([z, torch.zeros_like(z)]), dim=0)) / tau
    For open gates this is a difference of two nearly equal numbers, and its digits are lost: logsigmoid computes log(1 + exp(-z))
    with log1p.
/ tau → * tau
    It is multiplied by tau: the power is 1/tau, so the logarithm is divided by it.
F.logsigmoid(z) / tau → F.logsigmoid(z)
    The power 1/tau is missing: divide by tau.
F.logsigmoid(z) / tau → F.logsigmoid(z / tau)
    z is divided by tau inside the sigmoid: the power acts on σ(z) as a whole, so tau stands outside the logarithm.
F.logsigmoid(z) / tau → torch.sigmoid(z) ** (1 / tau)
    This is the gate itself: its logarithm was asked for.
F.logsigmoid(z) / tau → -F.logsigmoid(z) / tau
    The sign is turned: the logarithm of a gate is at most 0.
F.logsigmoid(z) / tau → -F.softplus(z) / tau
    This is the logarithm of 1 - σ(z): a large z should open the gate, and here it closes it.
F.logsigmoid(z) / tau → z / tau
    This is z / tau: the sigmoid is missing, so open gates would be above 1.
"""

ALSO = (
    input_(
        "z",
        lambda z: z.mean(1, keepdim=True).expand_as(z),
        "All tokens get the gate of their mean: each token chooses for itself.",
    ),
)
