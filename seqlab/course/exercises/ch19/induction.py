r"""An induction head by hand

*Two attention heads that continue a pattern, with weights you set. · 15 minutes · ●●○ · 2 points*

A text repeats: "… a b … a", so what comes next is probably b. Two heads in two layers can say so without any training. Tokens are one-hot rows x (T, C).

1. The **first head** looks one token back: token j receives the one-hot of token j - 1, and token 0 receives a zero vector. That is an attention whose weights depend on positions only.
2. The **second head** searches. Token i asks with its own one-hot; the *key* of token j is what the first head gave it, so the key says what stood *before* j. The score is `sharp` times their dot product. Then softmax over all j ≤ i, token i included.
   The value of token j is its own one-hot.

Return the weights of the second head, A (T, T), and what it reads, y (T, C): the head's opinion on the next token. The weights must be differentiable in x.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.vocabulary import swapped


def induction(x, sharp):
    """Weights (T, T) and read (T, C) of the second head. x (T, C), sharp a number."""
    ### BEGIN SOLUTION
    before = torch.diag(torch.ones(len(x) - 1), -1)  # row j is 1 at j - 1
    keys = before @ x
    scores = sharp * x @ keys.mT
    future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
    A = scores.masked_fill(future, -torch.inf).softmax(-1)
    return A, A @ x
    ### END SOLUTION


WHY = r"""
**Solution.** The first head moves every token's name one place on. The second can then search for "a place whose predecessor is what I am", and reads what is there. One layer alone cannot do it: it would compare a with a, find the first a, and
read "a". Olsson et al. ([2022](https://arxiv.org/abs/2209.11895)) found such pairs of heads in trained transformers. They appear in a short phase of training in which in-context learning improves at once.

A short convolution does the job of the first head. That is why the chapter puts one in front of a memory when key and value are two tokens.

*Common mistakes:* keys shifted the wrong way (the head then reads the token *before* the earlier a); the values shifted as well as the keys; no causal mask.
"""

HINTS = (
    "Which token must be compared with which? Write down what token j should have as its key if b is to be found.",
    "keys = x one place later: keys[0] = 0, keys[j] = x[j - 1]. Queries and values are x itself.",
    "keys = torch.cat([torch.zeros_like(x[:1]), x[:-1]]); scores = sharp * x @ keys.mT; mask j > i; softmax; times x.",
)


def reference(x, sharp):
    """Pair by pair, by exponentials in float64."""
    x = x.double()
    rows = []
    for i in range(len(x)):
        w = [torch.exp(sharp * (x[i] * x[j - 1]).sum() * (j > 0)) for j in range(i + 1)]
        w = torch.stack(w) / torch.stack(w).sum()
        rows.append(torch.cat([w, w.new_zeros(len(x) - i - 1)]))
    A = torch.stack(rows)
    y = torch.stack([sum(A[i, j] * x[j] for j in range(len(x))) for i in range(len(x))])
    return A.float(), y.float()


def cases(rng):
    def text(name, tokens, C, sharp):
        x = torch.nn.functional.one_hot(torch.tensor(tokens), C).float()
        return Case(name, {"x": x, "sharp": sharp})

    soft = torch.randn(6, 3, generator=rng).softmax(-1).requires_grad_()
    return [
        text("T = 1", [2], 4, 5.0),
        text("a b a", [0, 1, 0], 3, 20.0),
        text("a pattern twice", [0, 1, 2, 3, 0, 1, 2], 5, 20.0),
        text("two continuations", [0, 1, 0, 2, 3, 0], 4, 8.0),
        text("nothing repeats", [3, 1, 0, 2], 4, 6.0),
        text("the same token all the time", [1, 1, 1, 1, 1], 2, 3.0),
        text("sharp = 0: a plain mean", [0, 1, 2, 0, 1], 3, 0.0),
        Case("soft tokens, learned", {"x": soft, "sharp": 2.0}),
    ]


OUTPUTS = ("A", "y")

TIME_AXIS = 0


def parts_hint(t, inputs):
    return "what is the key of each earlier token, and may token 0 have one?"


def _by_cat(x, sharp):
    keys = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
    s = torch.einsum("ic, jc -> ij", x, keys) * sharp
    seen = torch.ones_like(s).tril() > 0
    A = torch.softmax(torch.where(seen, s, -torch.inf), 1)
    return A, torch.einsum("ij, jc -> ic", A, x)


def _by_pad(x, sharp):
    keys = torch.nn.functional.pad(x, (0, 0, 1, 0))[:-1]
    e = (sharp * (x @ keys.T)).exp().tril()
    A = e / e.sum(1, keepdim=True)
    return A, A @ x


ALTERNATIVES = (_by_cat, _by_pad)

MISTAKES = """
keys = before @ x → keys = before.mT @ x
    The keys are shifted the wrong way: token j must be found by what stood before it, at j - 1.
keys = before @ x → keys = x
    There is no first head: the second finds the same token again and reads that.
return A, A @ x → return A, A @ keys
    The values are shifted, too: the head reads the token that it searched for. The value of j is its own one-hot.
scores = sharp * x @ keys.mT → scores = x @ keys.mT
    The scores are not multiplied by sharp.
scores = sharp * x @ keys.mT → scores = sharp * keys @ x.mT
    Queries and keys have changed places: token i asks with its own one-hot.
.triu(1) → .triu(0)
    Token i does not see itself: j ≤ i includes j = i.
scores.masked_fill(future, -torch.inf) → scores
    The future is seen: softmax runs over j ≤ i only.
scores.masked_fill(future, -torch.inf) → scores.masked_fill(future, 0.0)
    Hidden scores are set to 0, and e^0 is 1: they must be -∞.
return A, A @ x → return A, A.mT @ x
    The read sums over the wrong axis: row i of A belongs to query i.
"""

ALSO = (swapped("The outputs have changed places: return (A, y)."),)
