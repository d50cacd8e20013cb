r"""Bug hunt: a needle test that everybody passes

*Mend an evaluation that shows the model the answer. · 15 minutes · ●●○ · 2 points*

N texts of T tokens each hold one needle. The last two tokens are the **question and its answer**: token T - 2 asks, token T - 1 *is* the answer. `logits` (N, T, C) come from one pass over the whole text; position t has seen tokens 0 … t and scores token t + 1. `place` (N,) says
where the needle is, from 0 to T - 3.

The function in the next cell returns for each of `bins` equal ranges of depth the share of right answers and the number of texts. A place belongs to bin ⌊place · bins / (T - 2)⌋. It has **two bugs**. On its first symptom a model without any memory is right everywhere. Run the cell, read the
symptoms, and write the right version into `by_depth`. A bin without texts has the share 0.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.vocabulary import swapped


def by_depth(logits, tokens, place, bins):
    """Share of right answers and count by depth, both (bins,). logits (N, T, C), tokens (N, T), place (N,)."""
    ### BEGIN SOLUTION
    right = logits[:, -2].argmax(-1) == tokens[:, -1]
    depth = place * bins // (tokens.shape[1] - 2)
    rows = torch.nn.functional.one_hot(depth, bins).float()
    count = rows.sum(0)
    hits = (rows * right[:, None]).sum(0)
    return hits / count.clamp(min=1), count
    ### END SOLUTION


WHY = r"""
**The first bug**: the answer was compared with the logits at the *last* position, and that position has read the answer. A model that repeats its newest token gets 100 %. The position that must answer is T - 2, the question. Leaks of this kind are common, because texts are made with their answers in them and it
is easy to be off by one. A test of the test: a model without memory must be at chance.

**The second bug**: each bin was divided by the average number of texts in a bin, not by its own. If depths are uneven, a share can pass 100 %, and rare depths look bad.

*Common mistakes:* mending the position but comparing with token T - 2; T in place of T - 2 in the depth, so that the last bin is never full.
"""

HINTS = (
    "Which tokens has position T - 1 seen? And where is the sum of a bin divided by how many texts it has?",
    "Position T - 2 scores token T - 1. Each bin has its own count; an empty one must not be divided by 0.",
    "right = logits[:, -2].argmax(-1) == tokens[:, -1]; share = hits / count.clamp(min=1).",
)


def reference(logits, tokens, place, bins):
    """Text by text."""
    hits, count = [0.0] * bins, [0.0] * bins
    T = tokens.shape[1]
    for n in range(len(tokens)):
        b = int(place[n]) * bins // (T - 2)
        said = int(logits[n, T - 2].argmax())
        hits[b] += said == int(tokens[n, T - 1])
        count[b] += 1
    share = [h / max(c, 1) for h, c in zip(hits, count, strict=True)]
    return torch.tensor(share), torch.tensor(count)


def cases(rng):
    def case(name, N, T, C, bins, power=1.0):
        tokens = torch.randint(C, (N, T), generator=rng)
        tokens[:, -2] = (tokens[:, -1] + 1) % C  # the question is never the answer
        place = (torch.rand(N, generator=rng) ** power * (T - 2)).long()
        logits = torch.randn(N, T, C, generator=rng)
        # at the question about half are right; at the end nearly all are
        half = (torch.rand(N, generator=rng) < 0.5).float()[:, None]
        answer = torch.nn.functional.one_hot(tokens[:, -1], C)
        logits[:, -2] += 6 * half * answer
        logits[:, -1] += 9 * answer
        return Case(
            name, {"logits": logits, "tokens": tokens, "place": place, "bins": bins}
        )

    return [
        case("one text, one bin", 1, 3, 4, 1),
        case("even depths", 60, 12, 5, 5),
        case("uneven depths", 80, 20, 6, 4, 3.0),
        case("more bins than texts", 3, 33, 4, 8),
        case("bins that do not divide T", 50, 13, 5, 4, 0.5),
    ]


OUTPUTS = ("share", "count")

TIME_AXIS = None


def _by_index_add(logits, tokens, place, bins):
    T = tokens.shape[1]
    b = torch.div(place * bins, T - 2, rounding_mode="floor")
    right = (logits[:, T - 2].argmax(-1) == tokens[:, T - 1]).float()
    count = torch.zeros(bins).index_add(0, b, torch.ones(len(b)))
    hits = torch.zeros(bins).index_add(0, b, right)
    return torch.where(count > 0, hits / count, torch.zeros(bins)), count


def _by_selection(logits, tokens, place, bins):
    right = logits[:, -2].argmax(-1).eq(tokens[:, -1]).float()
    at = place * bins // (tokens.shape[1] - 2)
    parts = [right[at == b] for b in range(bins)]
    share = [p.mean() if len(p) else torch.tensor(0.0) for p in parts]
    return torch.stack(share), torch.tensor([float(len(p)) for p in parts])


ALTERNATIVES = (_by_index_add, _by_selection)

MISTAKES = """
logits[:, -2].argmax → logits[:, -1].argmax ; hits / count.clamp(min=1) → hits / (len(tokens) / bins)
    Both bugs are still there. Which tokens has the last position seen, and how many texts has each bin?
logits[:, -2].argmax → logits[:, -1].argmax
    The counts are right now. The other bug: the last position has already read the answer. The question must answer.
hits / count.clamp(min=1) → hits / (len(tokens) / bins)
    The answer is no longer seen. The other bug: each bin is divided by the average number of texts, not by its own.
== tokens[:, -1] → == tokens[:, -2]
    The prediction is compared with the question: it must be compared with the answer, token T - 1.
(tokens.shape[1] - 2) → tokens.shape[1]
    The depth is relative to T: places go from 0 to T - 3, so divide by T - 2.
place * bins // (tokens.shape[1] - 2) → bins - 1 - place * bins // (tokens.shape[1] - 2)
    The depths are turned round: place 0 is in the first bin.
hits / count.clamp(min=1), count → hits / count.clamp(min=1), count / len(tokens)
    The counts are shares of all texts: return how many texts each bin has.
hits / count.clamp(min=1) → hits / len(tokens)
    Each bin is divided by all texts: divide by its own number.
"""

ALSO = (swapped("The outputs have changed places: return (share, count)."),)
