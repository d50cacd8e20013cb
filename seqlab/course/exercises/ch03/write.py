r"""Write one token into the memory

*Store the pair (k, v) in the table S. · 5 minutes · ●○○ · 1 point*

The memory is a table S. To store the value v under the key k, add the outer product

$$S \leftarrow S + v\,k^\top, \qquad (v\,k^\top)_{ij} = v_i\,k_j .$$

This is one token, so there is no time axis. Here and in
all exercises below, q and k come with the feature map already applied: use them as they are.
"""

import torch
from torch import einsum

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch03.shared import _memory_cases, _numbers
from seqlab.course.exercises.vocabulary import softmaxed, unit_length


def write(S, k, v):
    """Store one token: S + v kᵀ. S: (B, H, V, K), k: (B, H, K), v: (B, H, V). Returns the new S (B, H, V, K)."""
    ### BEGIN SOLUTION
    return S + v[..., :, None] * k[..., None, :]
    ### END SOLUTION


WHY = r"""
**Solution.** `v[..., :, None]` is (B, H, V, 1), `k[..., None, :]` is (B, H, 1, K). Their product broadcasts to (B,
H, V, K): row i, column j holds v[i] k[j]. `einsum("bhv,bhk->bhvk", v, k)` says the same.

Read it column by column: column j grows by k[j] times the whole value. If k is a one-hot vector, v goes into one
column and nothing else moves. Otherwise v is spread over several columns.

*Common mistakes:* writing k vᵀ, which nobody notices as long as K = V. Replacing S instead of adding to it. `S +=
…` gives the right numbers but changes the caller's table too.
"""

HINTS = (
    "The write adds a table of the shape of S: every entry of v times every entry of k.",
    "S has rows for the entries of v and columns for the entries of k: (v kᵀ)[i, j] = v[i] k[j].",
    "Give v a last axis of size 1 and k a last-but-one axis of size 1; their product is (B, H, V, K). Add S.",
)


def reference(S, k, v):
    S = S.clone()
    for i in range(S.shape[-1]):
        S[..., i] += v * k[..., i : i + 1]
    return S


def cases(rng):
    cases = _memory_cases(rng, "k", "v")
    empty = {
        "S": torch.zeros(1, 2, 3, 3),
        "k": _numbers(rng, 1, 2, 3),
        "v": _numbers(rng, 1, 2, 3),
    }
    return [*cases, Case("an empty memory", empty)]


OUTPUTS = ("S",)

TIME_AXIS = None

ALTERNATIVES = (
    lambda S, k, v: S + v.unsqueeze(-1) @ k.unsqueeze(-2),
    lambda S, k, v: S + einsum("bhv,bhk->bhvk", v, k),
)

MISTAKES = """
v[..., :, None] * k[..., None, :] → k[..., :, None] * v[..., None, :]
    This writes k vᵀ, the transpose of v kᵀ. S is (B, H, V, K): its rows belong to v, its columns to
    k.
S + →
    The write replaces the memory instead of adding to it: all that S held is lost. Add v kᵀ to S.
S + → S *
    The write is multiplied into S instead of added: an empty memory would stay empty for ever.
S + → S -
    The write is subtracted: the sign is wrong. The new memory is S + v kᵀ.
v[..., :, None] * k[..., None, :] → einsum("bhv,bhk->vk", v, k)
    One table is written for all sequences and heads: the products are summed over b and h. Keep
    both axes: each head of each sequence has its own table.
v[..., :, None] * k[..., None, :] → einsum("bhv,bhk->bvk", v, k)[:, None]
    The products are summed over the heads. Each head has its own table: keep the axis h in the
    result.
v[..., :, None] * k[..., None, :] → v[..., :, None] * k[..., None, :] / k.shape[-1] ** 0.5
    The write is scaled by K^-1/2. That factor belongs to softmax's scores; the memory stores v kᵀ
    as it is.
v[..., :, None] → (v - einsum("bhvk,bhk->bhv", S, k))[..., :, None]
    What the key held before is removed first: v - S k is written. That is the delta rule, a later
    chapter's memory. Linear attention only adds v kᵀ.
v[..., :, None] * k[..., None, :] → v[..., None]
    Only v is added, the same into every column: the key is not used. Column j of the write is k[j]
    v.
v[..., :, None] * k[..., None, :] → v * k
    v and k are multiplied entry by entry: v[i] k[i]. Every v[i] meets every k[j]; give v a last
    axis and k a last-but-one axis of size 1.
k[..., None, :] → k[..., None]
    v and k both got their new axis at the end, so they are multiplied entry by entry. k needs it
    before its last axis: k[..., None, :].
v[..., :, None] * k[..., None, :] → (v * k).sum(-1)[..., None, None]
    The dot product v·k, one number, is added everywhere. The write is the outer product v kᵀ, a
    table.
k[..., None, :] → (F.elu(k) + 1)[..., None, :]
    The feature map is applied here, although k comes with it already. Write v kᵀ with k as it is.
v[..., :, None] * k[..., None, :] → (F.elu(v) + 1)[..., :, None] * (F.elu(k) + 1)[..., None, :]
    The feature map is applied to v and k. It belongs to keys and queries only, and k comes with it
    already.
v[..., :, None] * k[..., None, :] → torch.outer(v, k)
    torch.outer takes two plain vectors, but v is (B, H, V). Multiply v[..., :, None] and k[...,
    None, :], or use einsum.
v[..., :, None] * k[..., None, :] → v @ k.mT
    `v @ k.mT` multiplies the last two axes, which are H and V: it sums over entries, or cannot.
    Give v a last axis and k a last-but-one axis of size 1.
v[..., :, None] * k[..., None, :] → v.mT @ k
    `v.mT @ k` sums over the heads: @ takes H for the axis to sum over. Give v a last axis and k a
    last-but-one axis of size 1.
v[..., :, None] * k[..., None, :] → v[..., None] @ k[..., None]
    v is a column, but k is a column too: `@` needs a row on the right, k[..., None, :].
v[..., :, None] * k[..., None, :] → v[..., None] * k
    v got its new axis, but k did not: broadcasting then lines up k's heads with the rows of v. Use
    k[..., None, :].
S + v[..., :, None] * k[..., None, :] → S.clone()
    S is returned unchanged: the token was not written. Return S + v kᵀ.
"""

ALSO = (unit_length("k"), softmaxed("k"))
