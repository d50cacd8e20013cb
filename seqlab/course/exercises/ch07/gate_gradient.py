r"""What a gate should have been

*Find the gradient of every gate from two sums. · 15 minutes · ●●● · 2 points*

Training must know how the loss changes with each gate. Let $M_{ij} = (C_i \cdot B_j)\,L_{ij}$ be the matrix of one head, and let

$$W_{ij} = \frac{\partial\,\text{loss}}{\partial M_{ij}}\; M_{ij} \qquad (j \le i),\quad W_{ij} = 0 \text{ above.}$$

You are given W. Find $\partial\,\text{loss} / \partial \log a_t$ for every token t.

Which entries of M contain the gate $a_t$? Those form a block, and each gate has another. But you need not add up T blocks: the
check allows neither a loop over tokens nor a tensor much larger than W.
"""

import torch

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch07.shared import _close, _randn

SMALLER = 256  # T of the case that is counted


def gate_gradient(W):
    """The gradient with respect to log a, (B, H, T). W (B, H, T, T): ∂loss/∂M times M, 0 above the diagonal."""
    ### BEGIN SOLUTION
    surplus = W.sum(-1) - W.sum(-2)  # what t reads, minus what is read of t
    return surplus.flip(-1).cumsum(-1).flip(-1)
    ### END SOLUTION


WHY = r"""
**Solution.** $M_{ij}$ contains $a_t$ if $j < t \le i$, and $\partial M_{ij} / \partial \log a_t = M_{ij}$ there. So the
gradient is the sum of W over the block of rows $i \ge t$ and columns $j < t$: everything that passes from before t to t
or later. That is the block whose rank is N.

For the quick way, sum rows $i \ge t$ whole, which also counts pairs with both ends at t or later; take these away by summing the columns $j \ge t$,
whose entries all lie in those rows. So the gradient at t is a sum, over s ≥ t, of row sum minus column sum: one cumulative sum from the end.

Real kernels use this. The row sum of W is $q_s \cdot \partial q_s$ and the column sum $k_s \cdot \partial k_s$, so the gates' gradient
costs nothing once those of q and k are known.

*Common mistakes:* counting $j \le t$, which adds the token's own writes; forgetting that later pairs do not pass t; summing from the front.
"""

HINTS = (
    "For one t, mark the pairs (i, j) whose product a_{j+1} ⋯ a_i contains a_t.",
    "The block: rows i ≥ t, columns j < t. Sum of whole rows i ≥ t, minus the pairs with j ≥ t. Where do those pairs lie?",
    "surplus = W.sum(-1) - W.sum(-2); then a cumulative sum from the end: flip, cumsum, flip.",
)


def reference(W):
    T = W.shape[-1]
    return torch.stack(
        [W[..., t:, :t].double().sum((-1, -2)) for t in range(T)], -1
    ).float()


def cases(rng):
    def case(name, B, H, T, scale=1.0):
        return Case(name, {"W": scale * _randn(rng, B, H, T, T).tril()})

    alone = torch.zeros(1, 1, 6, 6)
    alone[..., 4, 1] = 1
    return [
        case("T = 1", 2, 2, 1),
        Case("a single pair", {"W": alone}),
        case("odd T", 2, 3, 7),
        case("T = H", 1, 4, 4),
        Case("the diagonal alone", {"W": torch.eye(5).expand(1, 2, 5, 5).clone()}),
        case("large values", 1, 2, 9, 1e4),
        case(f"T = {SMALLER}", 1, 1, SMALLER),
    ]


def effort(inputs, effort):
    W = inputs["W"]
    if W.shape[-1] < SMALLER:
        return None
    if effort.calls >= SMALLER:
        return f"The values are right, but this walks from gate to gate: {effort.calls:,} torch operations for {SMALLER} gates."
    if effort.largest > 2 * W.numel():
        return f"The values are right, but a tensor of {effort.largest:,} numbers was made, much larger than W. Rows and columns of W suffice."
    return None


def parts_hint(t, inputs):
    return (
        "does anything pass from before the first token?"
        if t == 0
        else "which pairs contain the gate of this token, and is the pair (t, t) one?"
    )


PROPERTIES = (
    Property(
        "a token's own pair has no gate",
        variants=lambda inputs: [{"W": inputs["W"] + torch.eye(inputs["W"].shape[-1])}],
        holds=lambda inputs, outputs: _close(*outputs, tolerance=1e-2),
        message="The diagonal of W changes the gradient: between a token and itself there is no gate.",
    ),
)

TIME_AXIS = 2

OUTPUTS = ("gradient",)


def _two_sums(W):
    """Sum down the columns from the end, then along the rows from the front: every block at once."""
    blocks = W.flip(-2).cumsum(-2).flip(-2).cumsum(-1)
    shifted = torch.nn.functional.pad(blocks, (1, 0))[..., :-1]
    return shifted.diagonal(dim1=-2, dim2=-1)


def _whole_minus_front(W):
    """What is read after t minus what was written from t on."""
    reads, writes = W.sum(-1), W.sum(-2)
    return (reads.cumsum(-1).neg() + writes.cumsum(-1) + reads - writes) + (
        reads.sum(-1) - writes.sum(-1)
    )[..., None]


ALTERNATIVES = (_two_sums, _whole_minus_front)

MISTAKES = """
W.sum(-1) - W.sum(-2) → W.sum(-1)
    The pairs with both ends at t or later are counted too: the gate of t lies before both of them. Take
    the columns j ≥ t away.
W.sum(-1) - W.sum(-2) → W.sum(-2) - W.sum(-1)
    The sign is turned round: what a token reads counts for the gates before it, what is read of it
    against those.
surplus.flip(-1).cumsum(-1).flip(-1) → surplus.cumsum(-1)
    Your sum runs from the first token to t: this is minus the gradient of the gate of t + 1. Sum from t
    to the end.
surplus.flip(-1).cumsum(-1).flip(-1) → surplus
    Each gate takes only its own token's surplus: it lies on the way of every pair that passes it, so sum
    over s ≥ t.
W.sum(-1) - W.sum(-2) → W.sum(-1) + W.sum(-2)
    Row sums and column sums are added: pairs with both ends behind t must cancel, so subtract.
surplus.flip(-1).cumsum(-1).flip(-1) → surplus.flip(-1).cumsum(-1).flip(-1) - surplus
    Your sum begins at s = t + 1: the pairs that token t itself reads from before pass its gate too.
surplus.flip(-1).cumsum(-1).flip(-1) → surplus.flip(-1).cumsum(-1).flip(-1) + W.diagonal(dim1=-2, dim2=-1)
    The pair (t, t) is counted: between a token and itself there is no gate.
* → return torch.stack([W[..., t:, : t + 1].sum((-1, -2)) for t in range(W.shape[-1])], -1)
    Your block has one column too many, j ≤ t. The write of token t is made after its gate, so only j < t
    passes it.
* → return torch.stack([W[..., t + 1 :, :t].sum((-1, -2)) for t in range(W.shape[-1])], -1)
    Your block has one row too few, i > t. Token t decays the state before it reads, so its own row
    counts.
* → return torch.stack([W[..., :t, t:].sum((-1, -2)) for t in range(W.shape[-1])], -1)
    This block lies above the diagonal, where W is 0: rows are the readers, so i ≥ t and j < t.
"""
