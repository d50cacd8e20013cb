r"""Project: who and where

*Design a memory by hand, with two columns and the gates of GLA. · 20 minutes · ●●● · 3 points*

A text names persons and places among filler. Two questions come at any time: **who?** asks for the latest person, **where?** for the latest place. And now and then a token says
**forget everything**. The tokens are whole numbers:

| 0 … 7 | 8 … 15 | 16 | 17 | 18 | 19 |
|---|---|---|---|---|---|
| a person | a place | filler | who? | where? | forget everything |

Nothing is trained here: *you* choose the numbers. Write `memory(tokens)`, which returns `(q, k, v, log_a)` for `seqlab.core.recurrence`, one head: q and k (T, 2), v (T, 8) and log_a
(T, 2), at most 0. The state is then a table of 8 × 2, and $y_t = S_t q_t$. A person p is the value that is 1 at place p, and a place p the one that is 1 at p - 8.

- at **who?** y is the latest person, and at **where?** the latest place: right to 0.01 in every entry, or all 0 if there was none since the last *forget everything*;
- a new person does not touch the place, nor a new place the person;
- **4,000 tokens** of filler and questions change nothing;
- the numbers of a token depend on that token alone, so the memory can decode;
- q, k, v and log_a are of moderate size: no entry is above 10 in absolute value, and log_a not below -50.
"""

import torch

import seqlab.core.recurrence as core
from seqlab.course.exercise import Case, Requirement


def memory(tokens):
    """Inputs of a gated recurrence with a state of 8 x 2. tokens (T,) of 0 .. 19.

    Returns q, k (T, 2), v (T, 8) and log_a (T, 2), float32.
    """
    ### BEGIN SOLUTION
    person, place, forget = tokens < 8, (tokens >= 8) & (tokens < 16), tokens == 19
    k = torch.stack([person, place], dim=1).float()
    q = torch.stack([tokens == 17, tokens == 18], dim=1).float()
    v = torch.nn.functional.one_hot(tokens % 8, 8) * (tokens < 16)[:, None]
    log_a = -20.0 * (k.bool() | forget[:, None])
    return q, k, v.float(), log_a
    ### END SOLUTION


WHY = r"""
**Solution.** Column 0 holds the person, column 1 the place. A person's key is (1, 0), and its gate closes column 0, *only* column 0, so the older person is gone and the place stays. Filler
and questions write nothing (k = 0) and close nothing (log a = 0). *Forget everything* closes both columns and writes nothing.

One gate per head cannot do this: it would have to forget the place in order to replace the person. Gated retention would need two heads. And a constant decay loses both over the filler.

*Other ways:* a fixed value for filler in a third place is not possible, there are eight; q may be larger if v is smaller; a rotation of both columns works as well.

*Common mistakes:* closing both columns at every name; filler that writes its embedding; a gate of 0.9 at names, which leaves a tenth of the old value.
"""

HINTS = (
    "Give persons one column of the table and places the other. What must happen to a column when a new value comes?",
    "A person: k = (1, 0), log_a = (-20, 0), v one-hot. Filler: k = 0, log_a = 0. Who?: q = (1, 0).",
    "log_a = -20.0 * (k.bool() | (tokens == 19)[:, None]), with k = torch.stack([person, place], 1).float().",
)


def cases(rng):
    def text(name, T, weights):
        kinds = torch.multinomial(torch.tensor(weights), T, True, generator=rng)
        named = torch.randint(8, (T,), generator=rng)
        tokens = torch.where(kinds < 2, named + 8 * kinds, kinds + 14)
        return Case(name, {"tokens": tokens})

    long = torch.full((4001,), 16)
    long[::7], long[3::7] = 17, 18
    long[0], long[1] = 3, 12
    return [
        text("a text", 60, [0.15, 0.15, 0.3, 0.2, 0.2, 0.0]),
        text("a text with forgetting", 80, [0.15, 0.15, 0.2, 0.2, 0.2, 0.1]),
        text("names without end", 50, [0.4, 0.4, 0.0, 0.1, 0.1, 0.0]),
        Case("4,000 tokens without a name", {"tokens": long}),
    ]


def wanted(tokens):
    """What each question asks for (T, 8), by a dict; and where a question stands."""
    answer, asked = torch.zeros(len(tokens), 8), torch.zeros(len(tokens)).bool()
    latest = {}
    for t, token in enumerate(tokens.tolist()):
        if token < 16:
            latest[token // 8] = token % 8
        elif token == 19:
            latest = {}
        elif token > 16:
            asked[t] = True
            if token - 17 in latest:
                answer[t, latest[token - 17]] = 1
    return answer, asked


def right_shapes(inputs, values):
    for i, parts in zip(inputs, values, strict=True):
        T = len(i["tokens"])
        if [tuple(p.shape) for p in parts] != [(T, 2), (T, 2), (T, 8), (T, 2)]:
            return False, ", ".join(str(tuple(p.shape)) for p in parts)
    return True, "they fit"


def moderate(inputs, values):
    top = max(p.abs().max().item() for *parts, _ in values for p in parts)
    gates = torch.cat([log_a.flatten() for *_, log_a in values])
    low, high = gates.min().item(), gates.max().item()
    return (
        top <= 10 and low >= -50 and high <= 0
    ), f"|q|, |k|, |v| up to {top:.3g}, log_a from {low:.3g} to {high:.3g}"


def of_the_token_alone(inputs, values):
    seen = {}
    for i, parts in zip(inputs, values, strict=True):
        for token, row in zip(i["tokens"].tolist(), torch.cat(parts, 1), strict=True):
            if (row - seen.setdefault(token, row)).abs().max() > 1e-6:
                return False, f"token {token} has different numbers at different places"
    return True, "they do"


def reads(inputs, values):
    """For each text: y, what is wanted, and where it is asked."""
    for i, (q, k, v, log_a) in zip(inputs, values, strict=True):
        one = (u.double()[None, :, None] for u in (q, k, v))
        y, _ = core.recurrent(*one, log_a=log_a.double().clamp(max=0)[None, :, None])
        yield y[0, :, 0], *wanted(i["tokens"])


def worst(inputs, values, which):
    found = 0.0
    for n, (y, answer, asked) in enumerate(reads(inputs, values)):
        if which(n) and asked.any():
            found = max(found, (y - answer)[asked].abs().max().nan_to_num(9e9).item())
    return found <= 0.01, f"off by up to {found:.2g}"


REQUIREMENTS = (
    Requirement(
        "q, k (T, 2), v (T, 8), log_a (T, 2)",
        right_shapes,
        "The shapes do not fit: q, k and log_a must be (T, 2), and v (T, 8).",
    ),
    Requirement(
        "moderate numbers",
        moderate,
        "Some number is too large: q, k and v stay within 10, and log_a between -50 and 0.",
    ),
    Requirement(
        "of the token alone",
        of_the_token_alone,
        "The numbers of a token depend on where it stands: a memory that decodes knows the token and the state, nothing else.",
    ),
    Requirement(
        "the latest is found",
        lambda i, v: worst(i, v, lambda n: n in (0, 2)),
        "A question does not get the latest person or place alone: is the older one cleared from its column, and the other column left as it is?",
    ),
    Requirement(
        "forget everything",
        lambda i, v: worst(i, v, lambda n: n == 1),
        "After 'forget everything' something is still read: it must close both columns, and write nothing.",
    ),
    Requirement(
        "filler changes nothing",
        lambda i, v: worst(i, v, lambda n: n == 3),
        "Over 4,000 tokens without a name the memory changes: at filler and at questions no gate may close, and nothing may be written.",
    ),
)


def _by_table(tokens):
    """A row of numbers for each of the 20 tokens, looked up."""
    k, q, log_a, v = (
        torch.zeros(20, 2),
        torch.zeros(20, 2),
        torch.zeros(20, 2),
        torch.zeros(20, 8),
    )
    for token in range(16):
        k[token, token // 8] = 2.0
        log_a[token, token // 8] = -30.0
        v[token, token % 8] = 0.5
    q[17, 0] = q[18, 1] = 1.0
    log_a[19] = -30.0
    return q[tokens], k[tokens], v[tokens], log_a[tokens]


ALTERNATIVES = (_by_table,)

OUTPUTS = ("q", "k", "v", "log_a")

MISTAKES = """
return q, k, v.float(), log_a → return q, k, v.float(), log_a[:, :1]
    The shapes do not fit: q, k and log_a must be (T, 2), and v (T, 8).
-20.0 * → -1000.0 *
    Some number is too large: q, k and v stay within 10, and log_a between -50 and 0.
q = torch.stack([tokens == 17, tokens == 18], dim=1).float() → q = torch.stack([tokens == 17, tokens == 18], dim=1).float() * (1 + torch.arange(len(tokens))[:, None] / 4000)
    The numbers of a token depend on where it stands: a memory that decodes knows the token and the state, nothing else.
k.bool() | forget[:, None] → k.bool().any(1, keepdim=True).expand(-1, 2) | forget[:, None]
    A question does not get the latest person or place alone: is the older one cleared from its column, and the other column left as it is?
(k.bool() | forget[:, None]) → k.bool()
    After 'forget everything' something is still read: it must close both columns, and write nothing.
-20.0 * (k.bool() | forget[:, None]) → -20.0 * (k.bool() | forget[:, None]) - 0.0001 * (tokens == 16)[:, None]
    Over 4,000 tokens without a name the memory changes: at filler and at questions no gate may close, and nothing may be written.
"""
