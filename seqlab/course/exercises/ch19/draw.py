r"""Draw the questions

*Write a batch of multi-query recall as it was published. · 10 minutes · ●○○ · 1 point*

B texts hold P pairs each: first all keys and values in turn, k₁ v₁ k₂ v₂ …, then room up to `length` (even). Each key comes once more in the room; its target there is
its value. A question may be at place 0, 2, 4, … of the room; there are $n = \mathrm{length} / 2 - P$ such places. Real words come back soon, so place $2i$ (with i = 0 … n - 1) is drawn with a probability
$\propto (i + 1)^{\mathrm{power} - 1}$, without taking a place twice.

To draw without taking twice, add random `noise` (B, n) to the *logarithm* of the probabilities. The place with the largest sum goes to the first pair, the next one to the second pair, and so on. (If the
noise is Gumbel's, this is exactly a draw.) All other tokens of the room are 0, and all other targets are -100. (Tokens and targets are floats here.)
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.vocabulary import swapped


def draw(keys, values, noise, length, power):
    """Tokens and targets, both (B, length). keys, values (B, P), noise (B, length / 2 - P)."""
    ### BEGIN SOLUTION
    B, P = keys.shape
    n = length // 2 - P
    log_p = (power - 1) * torch.arange(1, n + 1).log()
    order = (log_p + noise).argsort(-1, descending=True)[:, :P]
    places = 2 * P + 2 * order
    tokens = keys.new_zeros(B, length)
    tokens[:, : 2 * P] = torch.stack([keys, values], -1).flatten(1)
    tokens.scatter_(1, places, keys)
    targets = torch.full_like(tokens, -100).scatter(1, places, values)
    return tokens, targets
    ### END SOLUTION


WHY = r"""
**Solution.** Sorting log p + noise draws without replacement: the largest of log pᵢ + Gumbel noise falls on i with probability pᵢ, and the next ones follow the same law among those that are left. A constant in log p changes no
order, so the sum that makes probabilities add up to 1 is not needed.

*Another way:* `torch.multinomial` without replacement, as in `seqlab.tasks.MQAR`.

*Common mistakes:* noise added to p and not to its logarithm; a question at an odd place, where a value would stand; the target at the next token, as in language modelling: here the model answers *at* the question.
"""

HINTS = (
    "Three steps: the front of the texts, the places of the questions, then keys and values scattered to these places.",
    "order = the P largest of log p + noise, best first; the question of pair j is at 2P + 2 order[j].",
    "order = ((power - 1) * torch.arange(1, n + 1).log() + noise).argsort(-1, descending=True)[:, :P]; then scatter.",
)


def reference(keys, values, noise, length, power):
    """One text after the other, one question after the other."""
    B, P = keys.shape
    tokens, targets = torch.zeros(B, length), torch.full((B, length), -100.0)
    for b in range(B):
        for j in range(P):
            tokens[b, 2 * j], tokens[b, 2 * j + 1] = keys[b, j], values[b, j]
        free = list(range(length // 2 - P))
        for j in range(P):
            weight = {
                i: float(noise[b, i].exp()) * (i + 1) ** (power - 1) for i in free
            }
            best = max(free, key=weight.__getitem__)
            free.remove(best)
            tokens[b, 2 * P + 2 * best] = keys[b, j]
            targets[b, 2 * P + 2 * best] = values[b, j]
    return tokens, targets


def cases(rng):
    def case(name, B, P, length, power):
        n = length // 2 - P
        some = torch.rand(B, 2, 40, generator=rng).argsort(-1)[..., :P]
        inputs = {
            "keys": some[:, 0] + 1.0,
            "values": some[:, 1] + 41.0,
            "noise": -torch.empty(B, n).exponential_(generator=rng).log(),
            "length": length,
            "power": power,
        }
        return Case(name, inputs)

    return [
        case("one pair, one place", 2, 1, 4, 0.01),
        case("one pair", 3, 1, 16, 0.01),
        case("three pairs, nine places", 4, 3, 24, 0.01),
        case("as many places as pairs", 3, 4, 16, 0.01),
        case("power 1: all places alike", 4, 4, 40, 1.0),
        case("a steep power", 4, 5, 60, -2.0),
    ]


OUTPUTS = ("tokens", "targets")

TIME_AXIS = 1


def _by_topk(keys, values, noise, length, power):
    P, n = keys.shape[1], noise.shape[1]
    p = torch.arange(1.0, n + 1) ** (power - 1)
    best = (p.log() + noise).topk(P).indices
    room, asked = (
        torch.zeros(len(keys), n, 2),
        torch.full((len(keys), n, 2), -100.0),
    )
    rows = torch.arange(len(keys))[:, None]
    room[rows, best, 0], asked[rows, best, 0] = keys, values
    front = torch.stack([keys, values], 2).flatten(1)
    tokens = torch.cat([front, room.flatten(1)], 1)
    return tokens, torch.cat([torch.full_like(front, -100), asked.flatten(1)], 1)


def _with_probabilities(keys, values, noise, length, power):
    """Normalised, and by dividing exponential clocks by p."""
    B, P = keys.shape
    p = torch.arange(1.0, noise.shape[1] + 1) ** (power - 1)
    clock = (-noise).exp() / (p / p.sum())
    places = 2 * P + 2 * clock.argsort(-1)[:, :P]
    tokens, targets = torch.zeros(B, length), torch.full((B, length), -100.0)
    tokens[:, 0 : 2 * P : 2], tokens[:, 1 : 2 * P : 2] = keys, values
    return tokens.scatter(1, places, keys), targets.scatter(1, places, values)


ALTERNATIVES = (_by_topk, _with_probabilities)

MISTAKES = """
(log_p + noise) → (log_p.exp() + noise)
    The noise is added to the probabilities: add it to their logarithms.
(log_p + noise) → (noise + 0 * log_p)
    All places are equally likely here: the power law is missing.
(power - 1) * → power *
    The exponent is power: it must be power - 1.
torch.arange(1, n + 1).log() → torch.arange(n).clamp(min=0.5).log()
    The probability of place 2i goes with i + 1, not with i.
argsort(-1, descending=True) → argsort(-1)
    The smallest sums are taken: the largest sum goes to the first pair.
places = 2 * P + 2 * order → places = 2 * P + order
    A question is at every second place of the room only: place 2i, not i.
places = 2 * P + 2 * order → places = 2 * P + 2 * order + 1
    The questions are one token too late: place 2i is counted from the first token of the room.
places = 2 * P + 2 * order → places = 2 * P + 2 * order.sort(-1).values
    The places are sorted: the largest sum belongs to the first pair, wherever it is.
torch.stack([keys, values], -1).flatten(1) → torch.cat([keys, values], -1)
    The front has all keys, then all values: they come in turn, k₁ v₁ k₂ v₂ …
.scatter(1, places, values) → .scatter(1, places + 1, values)
    The targets are one token too late: a model answers at the question, not behind it.
"""

ALSO = (swapped("The outputs have changed places: return (tokens, targets)."),)
