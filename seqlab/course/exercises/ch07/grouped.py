r"""Keys that heads share

*Compute scores once for each group of heads. · 12 minutes · ●●○ · 2 points*

Mamba-2 has few B and C: a group of heads shares one of each, as query heads share keys in grouped-query attention. With H heads in
G groups, head h belongs to group h // (H / G): the first H / G heads to group 0, and so on. Each head keeps its own gate.

Write the matrix form for a whole layer,

$$y_i = \sum_{j \le i} (C_i \cdot B_j)\; a_{j+1} \cdots a_i\; v_j ,$$

and make no copy of B or C for each head: the scores are made once for each group. In one case the check counts the numbers in your largest
tensor; a copy for each head is larger than any that is needed.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch07.shared import FLAT, _log_gates, _randn, by_steps
from seqlab.course.exercises.vocabulary import early, heads_mixed, late

WIDE = 64  # N of the case that tells copies from groups


def grouped(B, C, v, log_a):
    """y (batch, T, H, P) of all heads. B and C (batch, T, G, N), v (batch, T, H, P), log_a (batch, T, H); G divides H."""
    ### BEGIN SOLUTION
    T, H, G = v.shape[1], v.shape[2], B.shape[2]
    scores = torch.einsum("bign, bjgn -> bgij", C, B)  # (batch, G, T, T)
    gates = log_a.transpose(1, 2)[..., None].expand(-1, -1, -1, T)
    L = gates.tril(-1).cumsum(-2).exp().tril()  # (batch, H, T, T)
    M = scores.repeat_interleave(H // G, dim=1) * L
    return torch.einsum("bhij, bjhp -> bihp", M, v)
    ### END SOLUTION


WHY = r"""
**Solution.** Scores depend on B and C alone, so there are G matrices of them. Only the mask differs from head to head. Repeat the
scores (or split the axis of heads into groups and let broadcasting do it), multiply by L, then mix the values.

Why share at all? B and C cost 2 G N numbers for each token in the projection and in the convolution. Codestral Mamba has 128 heads in 8 groups with N
= 128: 2,048 numbers in place of 32,768. The state is not smaller for it: each head has its own S.

*Common mistakes:* `repeat` in place of `repeat_interleave`, which deals heads to groups in turn; B and C changed in their places;
one group for all heads.
"""

HINTS = (
    "What of M_ij depends on the head, and what only on the group?",
    "scores (batch, G, T, T) from C and B; L (batch, H, T, T) from log_a. Head h needs the scores of group h // (H / G).",
    "scores = einsum('bign, bjgn -> bgij', C, B); scores.repeat_interleave(H // G, dim=1) * L; then mix v.",
)


def reference(B, C, v, log_a):
    copies = v.shape[2] // B.shape[2]
    k, q = (
        torch.stack([u[:, :, h // copies] for h in range(v.shape[2])], 2)
        for u in (B, C)
    )
    S = torch.zeros(len(v), v.shape[2], v.shape[3], B.shape[3])
    return by_steps(q, k, v, log_a, S)[0]


def cases(rng):
    def case(name, batch, T, H, G, N, P, log_a=None):
        inputs = {
            "B": _randn(rng, batch, T, G, N),
            "C": _randn(rng, batch, T, G, N),
            "v": _randn(rng, batch, T, H, P),
            "log_a": _log_gates(rng, batch, T, H) if log_a is None else log_a,
        }
        return Case(name, inputs)

    zero_and_one = (
        torch.tensor([0.0, FLAT, -0.3, 0.0, FLAT]).view(1, 5, 1).expand(1, 5, 4).clone()
    )
    return [
        case("T = 1", 2, 1, 4, 2, 3, 3),
        case("one group", 1, 7, 4, 1, 3, 2),
        case("two groups of three heads", 2, 7, 6, 2, 4, 3),
        case("a group for each head", 2, 5, 3, 3, 4, 2),
        case("gates of exactly 0 and 1", 1, 5, 4, 2, 3, 3, zero_and_one),
        case("strong gates", 1, 9, 4, 2, 3, 1, _log_gates(rng, 1, 9, 4, strength=60)),
        case(f"N = {WIDE}", 1, 8, 8, 2, WIDE, 2),
    ]


def effort(inputs, effort):
    B, v = inputs["B"], inputs["v"]
    batch, T, H, _ = v.shape
    if B.shape[-1] == WIDE and effort.largest >= batch * T * H * WIDE:
        return (
            f"The values are right, but a tensor of {effort.largest:,} numbers was made, as many as B has after a copy for each head. "
            "Make the scores once for each group."
        )
    return None


def parts_hint(t, inputs):
    return "which group does the head belong to, and which of B and C is the reader's?"


def _by_an_axis_of_groups(B, C, v, log_a):
    b, T, H, P = v.shape
    G = B.shape[2]
    below = torch.ones(T, T, dtype=torch.bool).tril(-1)
    L = (
        torch.where(below, log_a.transpose(1, 2)[..., None], 0.0)
        .cumsum(-2)
        .exp()
        .tril()
    )
    scores = C.transpose(1, 2) @ B.permute(0, 2, 3, 1)
    M = scores[:, :, None] * L.view(b, G, H // G, T, T)
    return (
        (M @ v.transpose(1, 2).view(b, G, H // G, T, P))
        .view(b, H, T, P)
        .transpose(1, 2)
    )


def _group_by_group(B, C, v, log_a):
    copies = v.shape[2] // B.shape[2]
    ys = []
    for g in range(B.shape[2]):
        scores = C[:, :, g] @ B[:, :, g].mT
        for h in range(g * copies, (g + 1) * copies):
            steps = log_a[:, :, h, None].expand(-1, -1, v.shape[1])
            ys.append(scores * steps.tril(-1).cumsum(-2).exp().tril() @ v[:, :, h])
    return torch.stack(ys, 2)


ALTERNATIVES = (_by_an_axis_of_groups, _group_by_group)

MISTAKES = """
scores.repeat_interleave(H // G, dim=1) → scores.repeat(1, H // G, 1, 1)
    The heads are dealt to the groups in turn, head h to group h mod G. Neighbours share a group: head h
    belongs to group h // (H / G).
"bign, bjgn -> bgij", C, B → "bign, bjgn -> bgij", B, C
    B and C have changed places: C belongs to the reading token i, B to the written token j.
* L → * (L > 0)
    The pairs are not decayed, only cut off at the diagonal: look for L.
scores.repeat_interleave(H // G, dim=1) → scores[:, :1]
    All heads use the scores of the first group.
scores.repeat_interleave(H // G, dim=1) → scores.flip(1).repeat_interleave(H // G, dim=1)
    The groups run backwards: the first heads belong to group 0.
gates.tril(-1) → gates.tril()
    Each product has one gate too many: token j's own gate counts as well. The diagonal of L is 1.
exp().tril() → exp().tril(-1)
    A token does not read its own write: the diagonal of L is 1.
exp().tril() → exp()
    A token reads the future: above its diagonal L must be 0.
* L → * L / B.shape[-1] ** 0.5
    The scores are scaled by N^-½: Mamba-2 has no such scale.
* L → * L.softmax(-1)
    A softmax is taken over L: there is none here.
return torch.einsum("bhij, bjhp -> bihp", M, v) → return torch.einsum("bhij, bihp -> bjhp", M, v)
    The values are mixed by the transposed matrix: y_i sums over j, the written tokens.
"""

ALSO = (
    heads_mixed("log_a", 2),
    late(),
    early(),
)
