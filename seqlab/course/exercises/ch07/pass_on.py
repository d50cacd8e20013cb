"""Bug hunt: chunks that do not talk

*Mend step 3, the recurrence over chunks. · 12 minutes · ●●○ · 2 points*

Each chunk has made its write, decayed to the chunk's own end (step 2). Step 3 passes the state on: it returns the state
*before* each chunk, for step 4, and the state after the last. `log_decay` holds, for each chunk, the sum of its log
gates: what the state loses while the chunk is read.

The function in the next cell runs, its shapes are right, and it has **two bugs**. Run it, read the symptoms, and write the
right version into `pass_on`.
"""

import torch

from seqlab.course.exercise import Case, Property
from seqlab.course.exercises.ch07.shared import (
    FLAT,
    _close,
    _log_gates,
    _randn,
    products,
)
from seqlab.course.exercises.vocabulary import heads_mixed, old_state, swapped


def pass_on(writes, log_decay, S):
    """The state before each of n chunks, and the state after the last.

    writes (B, n, H, P, N): what each chunk adds by its own end. log_decay (B, n, H). S (B, H, P, N): the state before
    the first chunk. Returns (before, S): before (B, n, H, P, N), and the new S (B, H, P, N).
    """
    ### BEGIN SOLUTION
    before = []
    for write, log_d in zip(writes.unbind(1), log_decay.unbind(1), strict=True):
        before.append(S)
        S = log_d.exp()[..., None, None] * S + write
    return torch.stack(before, dim=1), S
    ### END SOLUTION


WHY = r"""
**The first bug**: the loop starts from an empty state, and the given S is lost. A text read at once is right; a text read in two
calls forgets the first of them. The mistake is common where training and decoding are written apart: in training S is always
empty, so nothing shows.

**The second bug**: the decay multiplies old state *and* new write. But step 2 has decayed each write to the end of its chunk
already. Decayed again, the newest chunk is too faint by its own decay. With gates near 1 this hides for long.

*Common mistakes:* mending only the first; returning the states *after* each chunk, so that a chunk reads its own writes twice; the
decay of the neighbouring chunk.
"""

HINTS = (
    "Feed one chunk from a full state, with a write of zero; then one chunk from an empty state. What must come back?",
    "The state after a chunk is: decay of this chunk times the state before it, plus the write as it is.",
    "before.append(S); S = log_d.exp()[..., None, None] * S + write. Start from the given S.",
)


def reference(writes, log_decay, S):
    """By the matrix over chunks: entry 0 is the given state."""
    padded = torch.nn.functional.pad(log_decay, (0, 0, 1, 0)).transpose(1, 2)
    all_writes = torch.cat([S[:, None], writes], 1).double()
    states = torch.einsum("bhij, bjhpn -> bihpn", products(padded), all_writes).float()
    return states[:, :-1], states[:, -1]


def cases(rng):
    def case(name, B, n, H, P, N, log_decay=None, given=True):
        S = _randn(rng, B, H, P, N) if given else torch.zeros(B, H, P, N)
        log_decay = _log_gates(rng, B, n, H) if log_decay is None else log_decay
        return Case(
            name, {"writes": _randn(rng, B, n, H, P, N), "log_decay": log_decay, "S": S}
        )

    zero_and_one = (
        torch.tensor([0.0, FLAT, -0.3, 0.0]).view(1, 4, 1).expand(1, 4, 2).clone()
    )
    return [
        case("one chunk, an empty state", 2, 1, 2, 3, 3, given=False),
        case("one chunk, a state given", 2, 1, 2, 3, 3),
        case("five chunks, an empty state", 1, 5, 2, 3, 2, given=False),
        case("five chunks, a state given", 2, 5, 3, 2, 4),
        case("gates of exactly 0 and 1", 1, 4, 2, 2, 3, zero_and_one),
        case("strong decay", 1, 3, 2, 3, 1, _log_gates(rng, 1, 3, 2, strength=20)),
    ]


def _halves(inputs):
    n = inputs["writes"].shape[1] // 2
    if n == 0:
        return []
    _, S = reference(inputs["writes"][:, :n], inputs["log_decay"][:, :n], inputs["S"])
    return [
        {
            "writes": inputs["writes"][:, n:],
            "log_decay": inputs["log_decay"][:, n:],
            "S": S,
        }
    ]


def _continues(inputs, outputs):
    if len(outputs) == 1:
        return True
    (before, S), (rest, S_rest) = outputs
    return _close(before[:, inputs["writes"].shape[1] // 2 :], rest) and _close(
        S, S_rest
    )


PROPERTIES = (
    Property(
        "two calls = one",
        variants=_halves,
        holds=_continues,
        message="The second half of the chunks, started from the state after the first half, gives something else than all at once.",
    ),
)

OUTPUTS = ("before", "S")

TIME_AXIS = {"before": 1, "S": None}


def parts_hint(t, inputs):
    return (
        "what is the state before the first chunk?"
        if t == 0
        else "what does a chunk do to the state, and is its write decayed again?"
    )


def _into_a_tensor(writes, log_decay, S):
    before, decay = torch.empty_like(writes), torch.exp(log_decay)
    for n in range(writes.shape[1]):
        before[:, n] = S
        S = torch.einsum("bh, bhpn -> bhpn", decay[:, n], S) + writes[:, n]
    return before, S


ALTERNATIVES = (_into_a_tensor, reference)

MISTAKES = """
before = [] → before = [] ⏎ S = torch.zeros_like(S) ; log_d.exp()[..., None, None] * S + write → log_d.exp()[..., None, None] * (S + write)
    Both bugs are still there. Feed one chunk with a write of 0 into a full state, then one chunk into
    an empty state.
before = [] → before = [] ⏎ S = torch.zeros_like(S)
    One bug is mended. The other: the loop starts from an empty state, so what earlier calls wrote is
    lost.
log_d.exp()[..., None, None] * S + write → log_d.exp()[..., None, None] * (S + write)
    The state is carried, but each write is decayed by its own chunk once more: step 2 has done that
    already.
before.append(S) ⏎ S = log_d.exp()[..., None, None] * S + write → S = log_d.exp()[..., None, None] * S + write ⏎ before.append(S)
    These are the states after each chunk: step 4 would read the chunk's own writes twice. Keep the
    state before the chunk.
log_d.exp()[..., None, None] * S + write → S + write
    The old state is not decayed: look for the decay of the chunk on S.
log_d.exp()[..., None, None] * S + write → S + log_d.exp()[..., None, None] * write
    Only the write is decayed, the old state is kept whole: look at what the decay multiplies.
log_d.exp()[..., None, None] * S + write → write
    Only the newest write is passed on: the old state must be added to it, decayed.
log_d.exp()[..., None, None] * S + write → log_d.exp()[..., None, None] * S
    The writes never enter the state: each chunk adds its own.
zip(writes.unbind(1), log_decay.unbind(1), strict=True) → zip(writes.unbind(1), log_decay.roll(1, 1).unbind(1), strict=True)
    Each chunk decays the state by another chunk's decay: chunk n needs log_decay n.
log_d.exp()[..., None, None] * S + write → log_d.exp()[..., None, None] ** 2 * S + write
    The state is decayed twice by each chunk: once is right.
torch.stack(before, dim=1), S → torch.stack(before, dim=1), before[-1]
    The state that you return is the one before the last chunk: it needs the last decay and write too.
"""

ALSO = (
    old_state("S", 1),
    swapped("The outputs have changed places: return (before, S)."),
    heads_mixed("log_decay", 2),
)
