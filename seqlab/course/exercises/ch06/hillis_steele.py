r"""Hillis-Steele, for any T

*Scan a gated recurrence in log₂ T steps, from a given state. · 15 minutes · ●●● · 3 points*

The chapter prints Blelloch's tree. The scan of Hillis and Steele is shorter and less deep. Every token t holds a pair $(a_t, b_t)$.
In step i = 0, 1, 2, … each token is joined with the one $2^i$ before it, if there is one; all joins of a step are made at once, from the
pairs as they were before the step. In the end $b_t$ is $h_t$.

Write it for $h_t = a_t h_{t-1} + b_t$ with a first state h0, and for any T. The check refuses a walk of T steps. Gates of exactly 0 are
allowed, and the gradients must be finite, so do not divide.
"""

import torch

from seqlab.core import scan
from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch06.shared import _close, _rand, _randn, no_walk
from seqlab.course.exercises.vocabulary import (
    decay_left_out,
    decay_squared,
    late,
    one_minus,
    reversed_in_time,
    state_ignored,
)


def hillis_steele(a, b, h0):
    """h_t = a_t h_{t-1} + b_t for all t. a and b (B, T, D), h0 (B, D). Returns h (B, T, D)."""
    ### BEGIN SOLUTION
    b = torch.cat([a[:, :1] * h0[:, None] + b[:, :1], b[:, 1:]], dim=1)
    for i in range(b.shape[1].bit_length()):
        span = 2**i
        joined = a[:, span:] * b[:, :-span] + b[:, span:]
        gates = a[:, span:] * a[:, :-span]
        b = torch.cat([b[:, :span], joined], dim=1)
        a = torch.cat([a[:, :span], gates], dim=1)
    return b
    ### END SOLUTION


WHY = r"""
**Solution.** Before step i the pair of token t stands for the last $2^i$ steps up to t. Joining it with the pair $2^i$ earlier makes it
stand for the last $2^{i+1}$. Tokens with nothing that far before them are done and stay as they are. After $\log_2 T$ steps, rounded up,
all are done. The first state enters as a step of its own: $b_0 \leftarrow a_0 h_0 + b_0$.

**What it costs.** Each step joins nearly all tokens: about $T \log_2 T$ joins, against $2T$ for the tree. Its depth is half.

*Common mistakes:* using the new a in the join for b; a span that grows by 1; forgetting that a is joined too; dividing by a running
product, which fails as soon as a gate is 0.
"""

HINTS = (
    "What must the pair of token t stand for after each step, so that the spans double?",
    "With span = 2**i: b_t ← a_t b_{t-span} + b_t and a_t ← a_t a_{t-span} for t ≥ span, both from the old values. The state "
    "goes into b_0 first.",
    "joined = a[:, span:] * b[:, :-span] + b[:, span:]; gates = a[:, span:] * a[:, :-span]; then torch.cat each behind the "
    "first span tokens.",
)


def reference(a, b, h0):
    """Token by token, in float64."""
    h, hs = h0.double(), []
    for t in range(a.shape[1]):
        h = a[:, t].double() * h + b[:, t].double()
        hs.append(h)
    return torch.stack(hs, dim=1).to(b.dtype)


def cases(rng):
    def case(name, B, T, D, low=0.3, high=0.95, size=1.0):
        a = _rand(rng, B, T, D, low=low, high=high)
        inputs = {
            "a": a,
            "b": size * _randn(rng, B, T, D),
            "h0": size * _randn(rng, B, D),
        }
        return Case(name, inputs)

    zeros = case("gates of 0 and 1", 2, 9, 4)
    zeros.inputs["a"][:, ::3] = 0.0
    zeros.inputs["a"][:, 1::3] = 1.0
    zeros.inputs["a"].requires_grad_()
    return [
        case("T = 1", 2, 1, 3),
        case("T = 2", 1, 2, 3),
        case("odd T", 2, 7, 3),
        case("T a power of two", 2, 8, 3),
        case("T = D", 2, 5, 5),
        zeros,
        case("large values", 1, 13, 2, size=100.0),
        case("no decay", 1, 33, 2, 0.999, 1.0),
        case("long", 1, 600, 2, 0.8, 0.999),
        case("strong decay", 1, 60, 2, 1e-4, 1e-2),
    ]


def effort(inputs, cost):
    if not cost.gradient_finite:
        return "The values are right, but the gradient of a is NaN or inf where a gate is 0: is there a division, or a logarithm?"
    return no_walk("a")(inputs, cost)


def _changed(inputs):
    b = inputs["b"].clone()
    b[:, (b.shape[1] + 1) // 2 :] += 3
    return [{**inputs, "b": b}]


PROPERTIES = (
    Property(
        "causal",
        variants=_changed,
        holds=lambda inputs, outputs: _close(
            *(h[:, : (inputs["b"].shape[1] + 1) // 2] for h in outputs), 1e-2
        ),
        message="Changing later tokens changed earlier states: h_t may depend on tokens up to t only.",
    ),
)


def parts_hint(t, inputs):
    if t == 0:
        return "is h_0 = a_0 · h0 + b_0?"
    return "spans should be 1, 2, 4, …: which join brings this token its past?"


def _padded(a, b, h0):
    """The state as a token before the first; moved copies instead of slices."""
    b = torch.cat([h0[:, None], b], dim=1)
    a = torch.cat([torch.zeros_like(a[:, :1]), a], dim=1)
    span = 1
    while span < b.shape[1]:
        pad = torch.nn.functional.pad
        before_b = pad(b, (0, 0, span, 0))[:, : b.shape[1]]
        before_a = pad(a, (0, 0, span, 0))[:, : a.shape[1]]
        a, b, span = a * before_a, a * before_b + b, 2 * span
    return b[:, 1:]


ALTERNATIVES = (
    _padded,
    lambda a, b, h0: scan.hillis_steele(a, b, h0),
    lambda a, b, h0: scan.blelloch(a, b, h0),
)

OUTPUTS = ("h",)

MISTAKES = """
b = torch.cat([a[:, :1] * h0[:, None] + b[:, :1], b[:, 1:]], dim=1) → b = torch.cat([h0[:, None] + b[:, :1], b[:, 1:]], dim=1)
    The first state enters undecayed: h_0 = a_0 · h0 + b_0.
gates = a[:, span:] * a[:, :-span] → gates = a[:, span:]
    The gates are not joined: a span of 2^(i+1) steps fades by the product of both gates.
span = 2**i → span = i + 1
    The span grows by 1 at each step. It must double: after step i each token stands for 2^(i+1) steps.
b = torch.cat([b[:, :span], joined], dim=1) ⏎ a = torch.cat([a[:, :span], gates], dim=1) → a = torch.cat([a[:, :span], gates], dim=1) ⏎ b = torch.cat([b[:, :span], a[:, span:] * b[:, :-span] + b[:, span:]], dim=1)
    The join for b uses gates that are already joined: both must be made from the old values.
a[:, span:] * b[:, :-span] + b[:, span:] → a[:, :-span] * b[:, :-span] + b[:, span:]
    The earlier gate is used in the join: b of the earlier step fades by the gate of the later one, a_2 b_1 + b_2.
a[:, span:] * b[:, :-span] + b[:, span:] → a[:, span:] * b[:, span:] + b[:, :-span]
    The later write fades, and the earlier one does not: it should be a_2 b_1 + b_2.
range(b.shape[1].bit_length()) → range(1)
    Only neighbours are joined: more steps, with spans 2, 4, …, must follow.
range(b.shape[1].bit_length()) → range(max(b.shape[1].bit_length() - 2, 0))
    There are too few steps: go on until the span reaches T.
* → return a * torch.cat([h0[:, None], b[:, :-1]], dim=1) + b
    This is one step of the recurrence from b of the token before, not from h: all earlier tokens are missing.
* → P = a.cumprod(1) ⏎ return P * (h0[:, None] + (b / P).cumsum(1))
    b is divided by the running product of the gates: where a gate is 0, or many are small, that is inf or NaN.
"""

ALSO = (
    state_ignored("h0", says="The first state is ignored: h_0 = a_0 · h0 + b_0."),
    decay_left_out("a"),
    decay_squared("a"),
    one_minus("a"),
    late("h"),
    reversed_in_time("h"),
)
