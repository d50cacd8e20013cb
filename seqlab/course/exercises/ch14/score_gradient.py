r"""Backward from the log-sum-exp

*Find the gradient of the scores, also from a loss that looks at lse. · 15 minutes · ●●● · 2 points*

The chapter derived $dS = P \circ (dP - D)$ for a loss that sees only y. In a ring, or with a merge after it, the loss also depends on lse. You are given what a kernel keeps, the scores S (scaled and masked, with -∞
where hidden), v, y and lse, and the gradients dy and dlse of both outputs. Find dS.

No softmax over a row is needed, and a tile must be enough: use lse, and only sums over the width V. A row that sees nothing has lse = -∞ and y = 0; its dS is 0.
"""

import torch

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch14.shared import _close, _randn


def score_gradient(S, v, y, lse, dy, dlse):
    """dS (T_q, T_k). S (T_q, T_k), v (T_k, V), y and dy (T_q, V), lse and dlse (T_q,)."""
    ### BEGIN SOLUTION
    unit = torch.where(lse.isfinite(), lse, torch.zeros_like(lse))
    P = (S - unit[:, None]).exp()
    D = (dy * y).sum(-1) - dlse
    return P * (dy @ v.mT - D[:, None])
    ### END SOLUTION


WHY = r"""
**Solution.** The derivative of $\mathrm{lse}_i$ with respect to $S_{ij}$ is $P_{ij}$: a log-sum-exp's gradient is the softmax. So dlse adds $P_{ij}\, \mathrm{dlse}_i$, and

$$dS_{ij} = P_{ij}\,\bigl(dy_i \cdot v_j - dy_i \cdot y_i + \mathrm{dlse}_i\bigr).$$

The new term is one number a row, like D, so it is folded into it before the first tile: $D_i = dy_i \cdot y_i - \mathrm{dlse}_i$. That is all that a merge, a ring or split keys need from a
backward kernel.

*Common mistakes:* dlse with the wrong sign; dlse added outside of P; the sum over the row of dS left out; P from a fresh softmax over the tile, which is right only if the tile holds the whole row.
"""

HINTS = (
    "What is the derivative of log Σ exp with respect to one of its arguments?",
    "∂lse_i/∂S_ij = P_ij = e^(S_ij - lse_i). Both parts have the factor P_ij.",
    "P = (S - lse).exp(), 0 in blind rows; D = (dy · y).sum(-1) - dlse; dS = P · (dy vᵀ - D).",
)


def reference(S, v, y, lse, dy, dlse):
    """Automatic differentiation, in float64."""
    blind = (lse == -torch.inf)[:, None]
    s = S.detach().double().masked_fill(blind, 0.0).requires_grad_()
    out, total = s.softmax(-1) @ v.double(), s.logsumexp(-1)
    loss = (out * dy.double()).sum() + (total * dlse.double()).sum()
    (dS,) = torch.autograd.grad(loss, s)
    return dS.masked_fill(blind, 0.0).float()


def _what_is_kept(S, v):
    blind = (-torch.inf == S).all(-1)
    lse = S.double().logsumexp(-1)
    P = torch.where(
        blind[:, None], 0.0, S.double().masked_fill(blind[:, None], 0).softmax(-1)
    )
    return (P @ v.double()).float(), lse.float()


def cases(rng):
    def case(name, T_q, T_k, V, scale=1.0, causal=False, dlse=1.0):
        S, v = scale * _randn(rng, T_q, T_k), _randn(rng, T_k, V)
        if causal:
            hidden = ~torch.ones(T_q, T_k, dtype=torch.bool).tril(T_k - T_q)
            S = S.masked_fill(hidden, -torch.inf)
        y, lse = _what_is_kept(S, v)
        given = {"y": y, "lse": lse, "dy": _randn(rng, T_q, V)}
        return Case(name, {"S": S, "v": v, **given, "dlse": dlse * _randn(rng, T_q)})

    return [
        case("T = 1", 1, 1, 3),
        case("a loss that ignores lse", 5, 7, 4, dlse=0.0),
        case("a loss of both", 5, 7, 4),
        case("causal", 6, 6, 3, causal=True),
        case("rows that see nothing", 7, 4, 3, causal=True),
        case("large scores", 4, 6, 3, 60.0),
        case("K ≠ V, more keys than queries", 3, 11, 2, causal=True),
    ]


PROPERTIES = (
    Property(
        "a shift of all scores changes lse alone",
        variants=lambda inputs: [{**inputs, "dlse": torch.zeros_like(inputs["dlse"])}],
        holds=lambda inputs, outputs: _close(
            (outputs[0] - outputs[1]).sum(-1),
            torch.where(inputs["lse"] == -torch.inf, 0.0, inputs["dlse"]),
            1e-2,
        ),
        message="If all scores of a row rise by one, lse rises by one: what dlse adds to dS must sum to dlse in each row.",
    ),
)

OUTPUTS = ("dS",)

TIME_AXIS = 0


def _two_parts(S, v, y, lse, dy, dlse):
    P = torch.where(-torch.inf == S, torch.zeros_like(S), torch.exp(S - lse[:, None]))
    from_y = P * torch.einsum("iv, ijv -> ij", dy, v[None] - y[:, None])
    return from_y + P * dlse[:, None]


def _softmax_again(S, v, y, lse, dy, dlse):
    """The Jacobian of a softmax, row by row, over the whole row at once."""
    P = torch.nan_to_num(S.softmax(-1), nan=0.0)
    dP = dy @ v.T + dlse[:, None]
    center = (P * (dy @ v.T)).sum(-1, keepdim=True)
    return P * dP - P * center


ALTERNATIVES = (_two_parts, _softmax_again)

MISTAKES = """
(dy * y).sum(-1) - dlse → (dy * y).sum(-1)
    The gradient of lse is ignored: a larger S_ij raises lse by P_ij.
(dy * y).sum(-1) - dlse → (dy * y).sum(-1) + dlse
    The sign of dlse is turned round: a larger score makes lse larger.
P * (dy @ v.mT - D[:, None]) → P * (dy @ v.mT)
    D is missing: a larger score takes weight from all other keys of its row.
P * (dy @ v.mT - D[:, None]) → dy @ v.mT - D[:, None]
    This is without the factor P: a score changes only what it has weight in.
P * (dy @ v.mT - D[:, None]) → P * (dy @ v.mT - D[:, None] - dlse[:, None]) + dlse[:, None]
    dlse is added to every score alike: the derivative of lse with respect to S_ij is P_ij.
D = (dy * y).sum(-1) - dlse → D = (y * y).sum(-1) - dlse
    D is y · y: it is dy · y.
(S - unit[:, None]).exp() → S.masked_fill(S == -torch.inf, -1e4).softmax(0)
    The weights add up to 1 over the queries: use the lse of each row, over the keys.
P * (dy @ v.mT - D[:, None]) → P * (dy @ v.mT - D[:, None]) * v.shape[-1] ** -0.5
    The gradient is scaled by the square root of a width. S is given scaled: no factor is left.
"""
