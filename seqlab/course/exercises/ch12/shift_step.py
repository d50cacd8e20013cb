r"""The shift, token by token

*Run H3's shift with a queue that never grows. · 8 minutes · ●○○ · 1 point*

H3's shift is a filter of N free taps for each channel (N is at least 2), with a skip:

$$\tilde k_t = \sum_{l=0}^{N-1} \mathrm{taps}_l\, k_{t-l} + D\, k_t$$

taps[:, 0] belongs to the newest token. Write one step. The `queue` holds the last N - 1 inputs, the newest **first**, and zeros where there were none yet. Return $\tilde k_t$ and the queue for the next token, just as long. The queue that was given must stay as it is. The names of the parameters must stay.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch12.shared import randn


def shift_step(k, queue, taps, skip):
    """k (D,), queue (N - 1, D), taps (D, N), skip (D,). Returns k̃ (D,) and the queue (N - 1, D)."""
    ### BEGIN SOLUTION
    inputs = torch.cat([k[None], queue])  # (N, D), the newest first
    shifted = (taps.T * inputs).sum(0) + skip * k
    return shifted, inputs[:-1]
    ### END SOLUTION


WHY = r"""
**Solution.** With the new token in front, the queue has N rows: row l is the input l tokens ago, and it meets tap l. Everything moves one place on, and the oldest row falls out. That *is* a state space: its matrix A moves each entry down by one place, its B writes into the first, and its C is the taps.

The chapter's convolution gives the same numbers for a whole text. This is its other reading, with a state of N - 1 inputs for each channel: for H3's 64 taps it is as large as the diagonal state beside it.

*Common mistakes:* the taps in `nn.Conv1d`'s order, the newest last; dropping the newest row in place of the oldest; a skip from the old input.
"""

HINTS = (
    "Put the new token in front of the queue: then row l is the input l tokens ago.",
    "inputs = torch.cat([k[None], queue]) has N rows, one for each tap. The last row is not needed again.",
    "(taps.T * inputs).sum(0) + skip * k, and inputs[:-1].",
)


def reference(k, queue, taps, skip):
    """The state space: a shift matrix, a first unit vector, and the taps as the read."""
    N = taps.shape[1]
    A = torch.diag(torch.ones(N - 1, dtype=k.dtype), -1)
    B = torch.zeros(N, 1, dtype=k.dtype)
    B[0] = 1
    before = torch.cat(
        [queue, torch.zeros_like(k[None])]
    )  # N entries, the last is lost anyway
    h = A @ before + B * k
    return torch.einsum("dn, nd -> d", taps, h) + skip * k, h[:-1]


def cases(rng):
    def case(name, D, N, scale=1.0, empty=False):
        queue = torch.zeros(N - 1, D) if empty else randn(rng, N - 1, D)
        inputs = {"k": scale * randn(rng, D), "queue": queue}
        inputs |= {"taps": randn(rng, D, N), "skip": randn(rng, D)}
        return Case(name, {n: x.requires_grad_() for n, x in inputs.items()})

    return [
        case("the first token", 3, 4, empty=True),
        case("N = 2", 2, 2),
        case("one channel", 1, 5),
        case("as many taps as channels", 4, 4),
        case("large inputs", 3, 6, 100.0),
    ]


OUTPUTS = ("shifted", "queue")

TIME_AXIS = None

ALTERNATIVES = (
    lambda k, queue, taps, skip: (
        (taps[:, 0] + skip) * k + torch.einsum("dn, nd -> d", taps[:, 1:], queue),
        torch.vstack([k, queue])[: len(queue)],
    ),
)

MISTAKES = """
(taps.T * inputs) → (taps.flip(-1).T * inputs)
    The taps are in the order of nn.Conv1d, the newest last: taps[:, 0] belongs to the newest token.
inputs[:-1] → inputs[1:]
    The queue is returned without the newest input: the newest goes in at the front, and the oldest drops out.
+ skip * k →
    The skip is missing: D k_t is added.
+ skip * k → + skip * queue[0]
    The skip takes the token before: it belongs to the newest token.
(taps.T * inputs).sum(0) → (taps[:, 1:].T * queue).sum(0)
    The newest token is not in the sum: tap 0 belongs to it.
torch.cat([k[None], queue]) → torch.cat([queue, k[None]])
    The new token is behind the others: in this queue the newest comes first.
return shifted, inputs[:-1] → return shifted, torch.cat([shifted[None], queue[:-1]])
    The output is put into the queue: the inputs are kept, so that each is weighed only once.
"""
