r"""Bug hunt: padding that takes a seat

*Keep padding away from experts and from the statistics. · 12 minutes · ●●○ · 2 points*

Texts of a batch have different lengths, so the shorter ones are padded *on the left*, and `real` marks the tokens that exist. The function in the next cell is
Switch's router with capacity, for each sequence on its own, and the balance loss. It was written for texts of one length. Padded ones are routed as well, with
**two consequences**. Run the cell, read the symptoms, and write the right version into `real_tokens`:

- padding is served by no expert (its weight is 0) and takes no place;
- the loss is $E \sum_e f_e P_e$ with the share $f_e$ and the mean $P_e$ over the real tokens of the whole batch. Tokens that chose $e$ and
  found it full count in $f_e$ all the same, as in Switch.
"""

import torch
import torch.nn.functional as F

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.vocabulary import swapped


def real_tokens(p, real, places):
    """The weight of each token, 0 if it is padding or dropped, and the balance loss over real tokens.

    p (B, T, E): probabilities. real (B, T) of bool. places: those of each expert in each sequence.
    Returns (weights, loss): weights (B, T), the loss without axes.
    """
    ### BEGIN SOLUTION
    best, expert = p.max(-1)
    asked = F.one_hot(expert, p.shape[-1]) * real[..., None]  # padding asks for nothing
    turn = (asked.cumsum(1) * asked).sum(-1)
    kept = real & (turn <= places)
    n = real.sum()
    f = asked.sum((0, 1)) / n
    P = (p * real[..., None]).sum((0, 1)) / n
    return best * kept, p.shape[-1] * (f * P).sum()
    ### END SOLUTION


WHY = r"""
**The first bug**: padding asks for places. With padding on the left it is even first in line: all padding is the same token, so it fills one expert, and the real
tokens that wanted this expert are dropped. **The second bug**: padding is in the averages. The router is told that one expert is too busy, and the
loss pushes real tokens away from it.

Both can go unseen for long: nothing crashes, and a loss that ignores padded *targets* looks right.

*Common mistakes:* mending only the weights (set to 0 at the end, while padding still takes places); dividing by B T in place of the number of real tokens; counting only
kept tokens in f.
"""

HINTS = (
    "Where does a padded token leave a trace? Follow it through the queue, the weights, and the two averages.",
    "Multiply the one-hot rows by `real` before anything is counted, and divide by real.sum().",
    "asked = F.one_hot(expert, E) * real[..., None]; f = asked.sum((0, 1)) / real.sum(); P = (p * real[..., None]).sum((0, 1)) / real.sum().",
)


def reference(p, real, places):
    """Token by token."""
    B, T, E = p.shape
    weights, f, P = torch.zeros(B, T), torch.zeros(E), torch.zeros(E)
    for b in range(B):
        left = [places] * E
        for t in range(T):
            if real[b, t]:
                e = int(p[b, t].argmax())
                f[e] += 1
                P = P + p[b, t]
                if left[e] > 0:
                    left[e] -= 1
                    weights = weights + p[b, t, e] * _at(B, T, b, t)
    n = int(real.sum())
    return weights, E * (f / n * P / n).sum()


def _at(B, T, b, t):
    one = torch.zeros(B, T)
    one[b, t] = 1
    return one


def cases(rng):
    def case(name, B, T, E, places, lengths=None, learned=False):
        logits = torch.randn(B, T, E, generator=rng)
        real = torch.ones(B, T, dtype=torch.bool)
        if lengths:
            real = torch.arange(T) >= T - torch.tensor(lengths)[:, None]
            logits = torch.where(real[..., None], logits, torch.arange(E) / 2.0)
        p = logits.softmax(-1).requires_grad_(learned)
        return Case(name, {"p": p, "real": real, "places": places})

    return [
        case("one token", 1, 1, 3, 1),
        case("no padding, room for all", 2, 5, 3, 5),
        case("no padding, little room", 2, 9, 3, 2),
        case("padding, room for all", 2, 8, 4, 8, [8, 3]),
        case("padding, little room", 3, 9, 3, 2, [9, 4, 6]),
        case("a text of one token, learned", 2, 7, 4, 1, [1, 5], True),
        case("an empty text", 2, 6, 3, 2, [6, 0]),
    ]


def _with_other_padding(inputs):
    """The same texts, with the padding's probabilities turned round."""
    p = torch.where(inputs["real"][..., None], inputs["p"], inputs["p"].flip(-1))
    return [inputs | {"p": p.detach()}]


def _unmoved(inputs, outputs):
    (w, loss), (w2, loss2) = outputs
    return torch.allclose(w, w2, atol=1e-5) and torch.allclose(loss, loss2, atol=1e-5)


PROPERTIES = (
    Property(
        "padding changes nothing",
        variants=_with_other_padding,
        holds=_unmoved,
        message="What the padding holds changes the answer: no trace of it may be left.",
    ),
)

OUTPUTS = ("weights", "loss")

TIME_AXIS = {"weights": 1, "loss": None}


def parts_hint(t, inputs):
    return "is this token real, and who took a place before it?"


def _selected(p, real, places):
    E, rows = p.shape[-1], []
    for probabilities, mask in zip(p, real, strict=True):
        x = probabilities[mask]
        best, expert = x.max(-1)
        hot = F.one_hot(expert, E)
        before = (hot.cumsum(0) - hot).gather(1, expert[:, None])[:, 0]
        row = torch.zeros(len(mask))
        rows.append(row.masked_scatter(mask, best * (before < places)))
    chosen = F.one_hot(p[real].argmax(-1), E).float()
    return torch.stack(rows), E * (chosen.mean(0) @ p[real].mean(0))


def _extra_expert(p, real, places):
    """Padding goes to an expert of its own, which is thrown away."""
    E = p.shape[-1]
    best, expert = p.max(-1)
    expert = torch.where(real, expert, E)
    hot = F.one_hot(expert, E + 1)
    turn = (hot.cumsum(1) - 1).gather(-1, expert[..., None])[..., 0]
    kept = (turn < places) & (expert < E)
    f = hot[..., :E].sum((0, 1)) / real.sum()
    P = torch.einsum("bte, bt -> e", p, real.float()) / real.sum()
    return torch.where(kept, best, 0.0), E * f @ P


def _pairwise(p, real, places):
    best, expert = p.max(-1)
    rivals = (expert[:, :, None] == expert[:, None]) & real[:, None]
    kept = (rivals.tril(-1).sum(-1) < places) & real
    chosen = torch.bincount(expert[real], minlength=p.shape[-1]) / real.sum()
    mean = (p * real.unsqueeze(-1)).flatten(0, 1).sum(0) / real.sum()
    return best * kept.float(), p.shape[-1] * (chosen * mean).sum()


ALTERNATIVES = (_selected, _extra_expert, _pairwise)

MISTAKES = """
* → best, expert = p.max(-1) ⏎ asked = F.one_hot(expert, p.shape[-1]) ⏎ kept = (asked.cumsum(1) * asked).sum(-1) <= places ⏎ f, P = asked.float().mean((0, 1)), p.mean((0, 1)) ⏎ return best * kept, p.shape[-1] * (f * P).sum()
    Both bugs are still there: padding takes places, and it is in the averages of the loss.
* real[..., None]  # padding asks for nothing →
    The weights of padding are 0, but it still takes places, and it is counted in f: padding must ask for nothing.
f = asked.sum((0, 1)) / n → f = F.one_hot(expert, p.shape[-1]).float().mean((0, 1)) ; P = (p * real[..., None]).sum((0, 1)) / n → P = p.mean((0, 1))
    The places are right, the loss is not: f and P are averages over all tokens, padding too.
n = real.sum() → n = real.numel()
    The sums leave padding out, but they are divided by all tokens: divide by the number of real ones.
P = (p * real[..., None]).sum((0, 1)) / n → P = p.mean((0, 1))
    The share f is over real tokens, the mean P over all of them, padding too.
f = asked.sum((0, 1)) / n → f = (asked * kept[..., None]).sum((0, 1)) / n
    f counts only tokens that found a place: who was dropped counts too, or an overfull expert would look just full.
asked.cumsum(1) * asked → asked.flatten(0, 1).cumsum(0).view_as(asked) * asked
    The places are counted over the whole batch: each sequence has its own.
return best * kept, → return kept.float() + 0 * best,
    The weights are 1 for each token that is served: the weight is the probability of its expert.
return best * kept, → return best * real,
    Nobody is dropped: a token that finds its expert full has weight 0.
p.shape[-1] * (f * P).sum() → (f * P).sum()
    The factor E is missing in the loss: it is 1 if f and P are even.
asked.cumsum(1) * asked → asked.flip(1).cumsum(1).flip(1) * asked
    The last tokens are served first: tokens take places in their order.
"""

ALSO = (swapped("The outputs have changed places: return (weights, loss)."),)
