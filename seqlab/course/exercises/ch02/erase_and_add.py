r"""Two heads write at once

*Let several heads change one memory so that their order does not matter. · 8 minutes · ●●○ · 2 points*

One head erases and adds: $M_n \leftarrow M_n (1 - w_n e) + w_n a$. If several heads write in the same step, the paper lets *all* of them erase first, one factor
each, and then all of them add. So the result does not depend on their order.

Write `erase_and_add(memory, w, e, a)` for H writing heads.
"""

import torch

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch02.shared import _rand, _randn
from seqlab.course.exercises.vocabulary import first_head, heads_mixed


def erase_and_add(memory, w, e, a):
    """The memory after H heads wrote. memory (B, N, M), w (B, H, N), e and a (B, H, M). Returns (B, N, M)."""
    ### BEGIN SOLUTION
    kept = 1 - w[..., None] * e[:, :, None]  # (B, H, N, M)
    added = torch.einsum("bhn, bhm -> bnm", w, a)
    return memory * kept.prod(dim=1) + added
    ### END SOLUTION


WHY = r"""
**Solution.** Factors commute and so do sums, but a factor and a sum do not. So all factors first, then all sums: the product of $1 - w_h e_h$ over the heads, and
$\sum_h w_h a_h^\top$, which is the course's $\sum v k^\top$ with weights for keys.

Keep this formula in mind: "scale down, then add an outer product" is each gated memory of chapters 04 to 08.

*Common mistakes:* calling the one-head function in a loop lets the second head erase what the first has just added. Subtracting $\sum_h w_h e_h$ may go below 0.
"""

HINTS = (
    "Separate what is erased from what is added. Which operations may change places?",
    "M ∏_h (1 - w_h e_hᵀ) + Σ_h w_h a_hᵀ.",
    "kept = 1 - w[..., None] * e[:, :, None]; memory * kept.prod(dim=1) + torch.einsum('bhn, bhm -> bnm', w, a).",
)


def reference(memory, w, e, a):
    """One cell at a time, in float64."""
    N, M = memory.shape[1:]
    after = memory.double().clone()
    for h in range(w.shape[1]):
        for n in range(N):
            after[:, n] *= 1 - w[:, h, n, None].double() * e[:, h].double()
    for n in range(N):
        for m in range(M):
            after[:, n, m] += (w[:, :, n].double() * a[:, :, m].double()).sum(-1)
    return after.float()


def cases(rng):
    def case(name, B, N, M, H, w=None, e=None, scale=1.0):
        inputs = {
            "memory": scale * _randn(rng, B, N, M),
            "w": _randn(rng, B, H, N).softmax(-1)
            if w is None
            else w * torch.ones(B, H, N),
            "e": _rand(rng, B, H, M) if e is None else e * torch.ones(B, H, M),
            "a": scale * _randn(rng, B, H, M),
        }
        return Case(name, inputs)

    one_row = case("all heads on one row", 2, 4, 3, 3)
    one_row.inputs["w"] = torch.eye(4)[torch.tensor([1, 1, 1])].expand(2, 3, 4).clone()
    return [
        case("one head", 1, 3, 2, 1),
        case("two heads, N ≠ M", 2, 5, 3, 2),
        case("N = M = H", 2, 3, 3, 3),
        case("nothing is erased", 2, 4, 3, 2, e=0.0),
        case("everything is erased", 2, 4, 3, 2, e=1.0),
        one_row,
        case("large values", 1, 4, 5, 2, scale=100.0),
        case("full weights", 1, 2, 3, 2, w=1.0),
    ]


PROPERTIES = (
    Property(
        "the order of the heads does not matter",
        lambda inputs: [
            inputs | {name: inputs[name].flip(1) for name in ("w", "e", "a")}
        ],
        lambda inputs, outputs: torch.allclose(
            outputs[0], outputs[1], rtol=1e-4, atol=1e-4
        ),
        "Your memory depends on the order of the heads: let all of them erase before any of them adds.",
    ),
)

OUTPUTS = ("memory",)

TIME_AXIS = None


def _head_by_head(memory, w, e, a):
    for w_h, e_h in zip(w.unbind(1), e.unbind(1), strict=True):
        memory = memory - memory * (w_h[:, :, None] * e_h[:, None])
    for w_h, a_h in zip(w.unbind(1), a.unbind(1), strict=True):
        memory = memory + w_h[:, :, None] * a_h[:, None]
    return memory


def _by_matrices(memory, w, e, a):
    kept = torch.ones_like(memory)
    for h in range(w.shape[1]):
        kept = kept * (1 - torch.einsum("bn, bm -> bnm", w[:, h], e[:, h]))
    return kept * memory + w.mT @ a


def _in_parts(memory, w, e, a):
    erased = torch.stack(
        [1 - w[:, h].unsqueeze(-1) * e[:, h].unsqueeze(1) for h in range(w.shape[1])]
    )
    return torch.addcmul(torch.bmm(w.transpose(1, 2), a), memory, torch.prod(erased, 0))


ALTERNATIVES = (_head_by_head, _by_matrices, _in_parts)

MISTAKES = """
* → for h in range(w.shape[1]): memory = memory * (1 - w[:, h, :, None] * e[:, h, None]) + w[:, h, :, None] * a[:, h, None] ⏎ return memory
    The heads write one after the other, so each erases what those before it have just added: let all erase first.
kept.prod(dim=1) → (1 - torch.einsum("bhn, bhm -> bnm", w, e))
    The shares that are erased are added up: with several heads that can erase more than there is. Multiply the factors 1 - w e.
memory * kept.prod(dim=1) + added → (memory + added) * kept.prod(dim=1)
    What is added is erased too: erase first, then add.
memory * kept.prod(dim=1) + added → memory + added
    Nothing is erased.
memory * kept.prod(dim=1) + added → memory * kept.prod(dim=1)
    Nothing is added.
1 - w[..., None] * e[:, :, None] → w[..., None] * e[:, :, None]
    The erased share is kept and the rest is erased: the factor is 1 - w e.
1 - w[..., None] * e[:, :, None] → 1 - e[:, :, None] + 0 * w[..., None]
    Every row is erased in full: a head erases a row only as far as its weight w is there.
kept.prod(dim=1) → kept.mean(dim=1)
    The factors of the heads are averaged: they multiply.
kept.prod(dim=1) → (1 - torch.einsum("bhn, bhm -> bnm", w, e)).clamp(min=0)
    The shares that are erased are added up, and the sum is cut off at 1. Two heads that each erase a half leave a quarter: multiply the factors 1 - w e.
kept.prod(dim=1) → kept.amin(dim=1)
    Only the head that erases the most erases: every head has a factor of its own, and they multiply.
kept.prod(dim=1) → (1 - (w[..., None] * e[:, :, None]).prod(dim=1))
    The shares w e are multiplied, so a cell is erased only where all heads erase it: multiply the factors 1 - w e.
kept.prod(dim=1) → (1 - w.sum(1)[..., None] * e.sum(1)[:, None])
    w and e are summed over the heads before they are multiplied, so one head's place is erased by another head's e. Each head has a factor 1 - w e of its own.
kept.prod(dim=1) + added → kept.mean(dim=1) + added / w.shape[1]
    This is the mean of what each head would have left by itself: the factors multiply, and what is added is summed.
kept.prod(dim=1) + added → kept[:, -1] + w[:, -1, :, None] * a[:, -1, None]
    Only the last head has written. If you loop over the heads, each must start from what the head before it left.
einsum("bhn, bhm -> bnm", w, a) → einsum("bhn, bhm -> bnm", torch.ones_like(w), a)
    a is added to every row in full: a row gets its weight's share.
einsum("bhn, bhm -> bnm", w, a) → einsum("bhn, bhm -> bnm", w, a) / w.shape[1]
    What is added is averaged over the heads: it is their sum.
einsum("bhn, bhm -> bnm", w, a) → einsum("bhn, bhm -> bnm", w, a * (1 - e))
    a is scaled down by 1 - e: e erases the old content only.
e[:, :, None] → a[:, :, None] ; einsum("bhn, bhm -> bnm", w, a) → einsum("bhn, bhm -> bnm", w, e)
    e and a have changed places.
"""

ALSO = (
    first_head("w", 1),
    heads_mixed("a", 1),
)
