r"""What the auxiliary loss does to a logit

*Find the gradient of the balance loss, in which the counts are constants. · 12 minutes · ●●○ · 2 points*

Each of N tokens chooses the k experts with the largest logits. With $p = \mathrm{softmax}(z)$ over the experts, the loss is

$$L = E \sum_e f_e P_e \qquad f_e = \frac{\text{tokens that chose } e}{N} \qquad P_e = \frac{1}{N} \sum_n p_{ne}$$

The counts $f$ are constants: no gradient flows through a choice. Return $\partial L / \partial z$ for all logits. (Autograd can confirm your
formula; the point is to have one. It says which logits the loss pushes down, and when it pushes none.)
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.vocabulary import output


def balance_gradient(logits, k):
    """∂L/∂z of the balance loss. logits z (N, E), k: how many experts a token chooses. Returns (N, E)."""
    ### BEGIN SOLUTION
    N, E = logits.shape
    p = logits.softmax(-1)
    chosen = torch.zeros_like(p).scatter(-1, logits.topk(k).indices, 1.0)
    f = chosen.mean(0)
    expected = (p * f).sum(-1, keepdim=True)  # the load that the token's own p expects
    return E / N * p * (f - expected)
    ### END SOLUTION


WHY = r"""
**Solution.** L is linear in p: $\partial L / \partial p_{ne} = E f_e / N$. A softmax turns a gradient $g$ into $p \circ (g - p \cdot g)$. Together

$$\frac{\partial L}{\partial z_{ne}} = \frac{E}{N}\; p_{ne} \Bigl( f_e - \sum_j p_{nj} f_j \Bigr)$$

So a logit is pushed down if its expert is busier than what the token itself expects under its own p. If all f are equal, the bracket is 0: a
balanced router is left alone. And an expert with p near 0 is hardly moved, however idle it is. That is why a dead expert recovers slowly.

*Common mistakes:* taking f to be P, with a gradient of its own; the softmax's second term forgotten; counts in place of shares.
"""

HINTS = (
    "First the gradient with respect to p, with f constant. Then one step back through the softmax.",
    "∂L/∂p_ne = E f_e / N. A softmax turns a gradient g into p (g - Σ p g).",
    "E / N * p * (f - (p * f).sum(-1, keepdim=True)), with f = chosen.mean(0).",
)


def reference(logits, k):
    """By autograd in float64, with the counts detached."""
    with torch.enable_grad():
        z = logits.detach().double().requires_grad_()
        p = z.softmax(-1)
        f = torch.zeros(z.shape[1], dtype=torch.float64)
        for row in z.detach().topk(k).indices:
            f[row] += 1 / len(z)
        loss = z.shape[1] * sum(
            f[e] * p[:, e].sum() / len(z) for e in range(z.shape[1])
        )
        (gradient,) = torch.autograd.grad(loss, z)
    return gradient.float()


def cases(rng):
    def case(name, N, E, k, size=1.0, lean=0.0):
        logits = size * torch.randn(N, E, generator=rng) + lean * torch.arange(E)
        return Case(name, {"logits": logits, "k": k})

    return [
        case("one token", 1, 4, 1),
        case("odd N", 7, 4, 1),
        case("k = 2", 9, 5, 2),
        case("k = 3, a busy expert", 8, 6, 3, 1.0, 0.5),
        case("large logits", 7, 3, 1, 5.0),
        case("all but one chosen", 5, 3, 2),
    ]


OUTPUTS = ("gradient",)

TIME_AXIS = None


def _by_hand(logits, k):
    N, E = logits.shape
    p = torch.softmax(logits, dim=1)
    index = logits.argsort(1, descending=True)[:, :k]
    f = torch.bincount(index.flatten(), minlength=E) / N
    return E * (p * f - p * (p @ f)[:, None]) / N


def _by_jacobian(logits, k):
    N, E = logits.shape
    p = logits.softmax(-1)
    f = torch.nn.functional.one_hot(logits.topk(k).indices, E).sum((0, 1)) / N
    jacobian = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
    return torch.einsum("nij, j -> ni", jacobian, f) * E / N


def _by_autograd(logits, k):
    with torch.enable_grad():
        z = logits.detach().clone().requires_grad_()
        p = z.softmax(-1)
        f = torch.zeros_like(p).scatter(-1, z.topk(k).indices, 1.0).mean(0).detach()
        return torch.autograd.grad(z.shape[1] * f @ p.mean(0), z)[0]


ALTERNATIVES = (_by_hand, _by_jacobian, _by_autograd)

MISTAKES = """
f = chosen.mean(0) → f = 2 * p.mean(0)
    The gradient flows through the counts as if f were the mean probability: this is the gradient of E Σ P². The counts are constants.
f = chosen.mean(0) → f = p.mean(0)
    f is the mean probability here. It is the share of the tokens that chose the expert.
(f - expected) → f
    The second term of the softmax is missing: what one logit gains, the others lose. In each row the gradient adds up to 0.
E / N * p → E * p
    The gradient is N times too large: either P is a sum over the tokens in place of a mean, or f holds counts in place of shares.
E / N * p → p / N
    The factor E is missing.
E / N * p * (f - expected) → E / N * (f - expected)
    The factor p in front is missing: a softmax hardly moves what is near 0.
E / N * p * (f - expected) → (E * f / N).expand(N, E)
    This is the gradient with respect to p. One more step back, through the softmax, leads to the logits.
f = chosen.mean(0) → f = chosen.mean(0) / k
    f is divided by k: each of the k choices of a token counts as one.
f = chosen.mean(0) → f = chosen
    Each token uses its own choice as f: f is the share over all tokens.
p = logits.softmax(-1) → p = logits.softmax(0)
    The softmax runs over the tokens: it runs over the experts, the last axis.
"""

ALSO = (
    output(
        0,
        lambda g: -g,
        "The sign is wrong: a busy expert's logit has a positive gradient, so that a step lowers it.",
    ),
)
