r"""Project: recall by hand

*Set every number of a delta rule, so that it recalls, overwrites and erases. · 20 minutes · ●●● · 3 points*

Nothing is trained here: *you* choose the numbers. There are 8 keys and 8 values. The tokens are whole numbers:

| 0 … 63 | 64 … 71 | 72 … 79 | 80 |
|---|---|---|---|
| token 8a + c writes value c under key a | token 64 + a asks for key a | token 72 + a erases key a | filler |

Write `by_hand(tokens)`, which returns `(q, k, v, beta)` for `seqlab.core.recurrence`, one head: q, k and v (T, 8) and beta (T,) between 0 and 1. The state is a table of 8 × 8, each write is $S \leftarrow S + \beta\,(v - S k)\,k^\top$, and $y_t = S_t q_t$. Value c is
the one-hot row of c.

- at a question y is the value written *last* under that key, right to 0.01 in every entry; it is all 0 if nothing was written under it, or if it was erased since;
- writing or erasing one key changes no other;
- **4,000 tokens** of filler and questions change nothing;
- the numbers of a token depend on that token alone;
- no entry is above 10 in absolute value.
"""

import torch

import seqlab.core.recurrence as core
from seqlab.course.exercise import Case, Requirement


def by_hand(tokens):
    """Inputs of a delta rule with a state of 8 x 8. tokens (T,) of 0 .. 80.

    Returns q, k, v (T, 8) and beta (T,), float32.
    """
    ### BEGIN SOLUTION
    write, ask = tokens < 64, (tokens >= 64) & (tokens < 72)
    erase = (tokens >= 72) & (tokens < 80)
    key = torch.where(write, tokens // 8, tokens % 8)
    keys = torch.nn.functional.one_hot(key, 8).float()
    q = keys * ask[:, None]
    k = keys * (write | erase)[:, None]
    v = torch.nn.functional.one_hot(tokens % 8, 8) * write[:, None]
    beta = (write | erase).float()
    return q, k, v.float(), beta
    ### END SOLUTION


WHY = r"""
**Solution.** Eight keys, eight columns: orthogonal keys never disturb each other. With β = 1 a write replaces the whole column of its key. Erasing is writing a zero. A question and filler write nothing: k = 0 and β = 0, of which either one would do.

A sum (linear attention) cannot do this, whatever its numbers: it would hold the older value beside the newer one, and the only way to take it out is to know it.

*Other ways:* any eight orthogonal directions, and any length of keys if β makes up for it: β ‖k‖² must be 1.

*Common mistakes:* questions that write zeros under their key (they erase what they ask for); keys of length 2 with β = 1, which overshoot; an erasure with β = 0.
"""

HINTS = (
    "Eight keys and eight columns. What must be in S k before a write, and what after it?",
    "A write: k one-hot, v one-hot, β = 1. To erase is to write v = 0. Questions and filler: β = 0.",
    "key = torch.where(tokens < 64, tokens // 8, tokens % 8); keys = one_hot(key, 8); 64, 72 and 80 are multiples of 8.",
)


def cases(rng):
    def text(name, T, weights):
        kinds = torch.multinomial(torch.tensor(weights), T, True, generator=rng)
        first = torch.tensor([0, 64, 72, 80])[kinds]
        size = torch.tensor([64, 8, 8, 1])[kinds]
        which = (torch.rand(T, generator=rng) * size).long()
        return Case(name, {"tokens": first + which})

    long = torch.full((4017,), 80)
    long[:8] = 8 * torch.arange(8) + torch.arange(8).flip(0)
    long[8::5] = 67
    long[-8:] = 64 + torch.arange(8)
    return [
        text("writes and questions", 80, [0.5, 0.4, 0.0, 0.1]),
        text("with erasures", 120, [0.35, 0.35, 0.2, 0.1]),
        text("only questions", 9, [0.0, 1.0, 0.0, 0.0]),
        Case("4,000 tokens without a write", {"tokens": long}),
    ]


def wanted(tokens):
    """The answer at each token (T, 8), by a dict; and where it is asked."""
    answer, asked, table = (
        torch.zeros(len(tokens), 8),
        torch.zeros(len(tokens)).bool(),
        {},
    )
    for t, token in enumerate(tokens.tolist()):
        if token < 64:
            table[token // 8] = token % 8
        elif token < 72:
            asked[t] = True
            if token - 64 in table:
                answer[t, table[token - 64]] = 1
        elif token < 80:
            table.pop(token - 72, None)
    return answer, asked


def right_shapes(inputs, values):
    for i, parts in zip(inputs, values, strict=True):
        T = len(i["tokens"])
        if [tuple(p.shape) for p in parts] != [(T, 8), (T, 8), (T, 8), (T,)]:
            return False, ", ".join(str(tuple(p.shape)) for p in parts)
    return True, "they fit"


def moderate(inputs, values):
    top = max(p.abs().max().item() for *parts, _ in values for p in parts)
    strengths = torch.cat([beta.flatten() for *_, beta in values])
    low, high = strengths.min().item(), strengths.max().item()
    said = f"|q|, |k|, |v| up to {top:.3g}, beta from {low:.3g} to {high:.3g}"
    return top <= 10 and low >= 0 and high <= 1, said


def of_the_token_alone(inputs, values):
    seen = {}
    for i, (q, k, v, beta) in zip(inputs, values, strict=True):
        rows = torch.cat([q, k, v, beta[:, None]], 1)
        for token, row in zip(i["tokens"].tolist(), rows, strict=True):
            if (row - seen.setdefault(token, row)).abs().max() > 1e-6:
                return False, f"token {token} has different numbers at different places"
    return True, "they do"


def worst(inputs, values, which):
    found = 0.0
    for n, (i, (q, k, v, beta)) in enumerate(zip(inputs, values, strict=True)):
        answer, asked = wanted(i["tokens"])
        if n not in which or not asked.any():
            continue
        one = (u.double()[None, :, None] for u in (q, k, v))
        y, _ = core.recurrent(*one, beta=beta.double()[None, :, None])
        found = max(
            found, (y[0, :, 0] - answer)[asked].abs().max().nan_to_num(9e9).item()
        )
    return found <= 0.01, f"off by up to {found:.2g}"


REQUIREMENTS = (
    Requirement(
        "q, k, v (T, 8), beta (T,)",
        right_shapes,
        "The shapes do not fit: q, k and v must be (T, 8), and beta (T,).",
    ),
    Requirement(
        "moderate numbers",
        moderate,
        "Some number is out of range: q, k and v stay within 10, and beta between 0 and 1.",
    ),
    Requirement(
        "of the token alone",
        of_the_token_alone,
        "The numbers of a token depend on where it stands: a memory that decodes knows the token and the state, nothing else.",
    ),
    Requirement(
        "the latest is found",
        lambda i, v: worst(i, v, (0, 2)),
        "A question does not get the latest value alone: does each write replace all that its own key returned, and nothing under another key?",
    ),
    Requirement(
        "erased keys return 0",
        lambda i, v: worst(i, v, (1,)),
        "After an erasure something is still read, or another key has changed: an erasure is a write of zeros under one key.",
    ),
    Requirement(
        "filler changes nothing",
        lambda i, v: worst(i, v, (3,)),
        "Over 4,000 tokens of filler and questions the memory changes: these may write nothing.",
    ),
)


def _by_table(tokens):
    """Rows looked up; keys of length 2, so that beta is a quarter."""
    q, k, v, beta = (
        torch.zeros(81, 8),
        torch.zeros(81, 8),
        torch.zeros(81, 8),
        torch.zeros(81),
    )
    for a in range(8):
        for c in range(8):
            k[8 * a + c, a], v[8 * a + c, c], beta[8 * a + c] = 2.0, 2.0, 0.25
        q[64 + a, a] = 1.0
        k[72 + a, a], beta[72 + a] = 2.0, 0.25
    return q[tokens], k[tokens], v[tokens], beta[tokens]


ALTERNATIVES = (_by_table,)

OUTPUTS = ("q", "k", "v", "beta")

MISTAKES = """
return q, k, v.float(), beta → return q, k, v.float(), beta[:, None]
    The shapes do not fit: q, k and v must be (T, 8), and beta (T,).
beta = (write | erase).float() → beta = 2.0 * (write | erase).float()
    Some number is out of range: q, k and v stay within 10, and beta between 0 and 1.
q = keys * ask[:, None] → q = keys * ask[:, None] * (1 + torch.arange(len(tokens))[:, None] / 10000)
    The numbers of a token depend on where it stands: a memory that decodes knows the token and the state, nothing else.
beta = (write | erase).float() → beta = 0.9 * (write | erase).float()
    A question does not get the latest value alone: does each write replace all that its own key returned, and nothing under another key?
k = keys * (write | erase)[:, None] → k = keys * write[:, None]
    After an erasure something is still read, or another key has changed: an erasure is a write of zeros under one key.
k = keys * (write | erase)[:, None] → k = keys * (write | erase)[:, None] + 0.02 * (tokens == 80)[:, None] ; beta = (write | erase).float() → beta = (write | erase | (tokens == 80)).float()
    Over 4,000 tokens of filler and questions the memory changes: these may write nothing.
"""
