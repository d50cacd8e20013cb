r"""Where to cut the gradient

*Write truncated backpropagation through time, with the cut in the right place. · 12 minutes · ●●○ · 2 points*

A text of a million tokens does not fit into one backward pass. *Truncated* backpropagation goes through it in chunks of k steps. The state is handed from
chunk to chunk, so the outputs are those of the whole text. The gradient is not: at the start of each chunk it stops, as if the state were a
constant.

Take an Elman network whose inputs are already multiplied, $h_t = \tanh(R\,h_{t-1} + u_t)$, and the loss $L = \tfrac12 \sum_t \lVert h_t \rVert^2$ over all
tokens. Write `truncated(R, u, h, k)`, which returns $\partial L / \partial R$ with the gradient cut at tokens 0, k, 2k, … You may use autograd or
not.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch02.shared import _randn


def truncated(R, u, h, k):
    """∂L/∂R for L = ½ Σ |h_t|², in chunks of k tokens. R (D, D), u (T, D), h (D,) the state before the first token.

    Returns a tensor (D, D).
    """
    ### BEGIN SOLUTION
    R = R.detach().clone().requires_grad_()
    loss = torch.zeros(())
    for t, u_t in enumerate(u):
        if t % k == 0:
            h = h.detach()
        h = torch.tanh(R @ h + u_t)
        loss = loss + 0.5 * h.square().sum()
    (gradient,) = torch.autograd.grad(loss, R)
    return gradient
    ### END SOLUTION


WHY = r"""
**Solution.** `detach` gives the same numbers without their history. Cutting *before* the step at t = 0, k, 2k, … means that the step itself still
counts: its own $R$ gets a gradient, and only the way further back is closed.

By hand it is a loop from the end: $\delta_t = (1 - h_t^2)(h_t + R^\top \delta_{t+1})$ and $\partial L/\partial R = \sum_t \delta_t h_{t-1}^\top$, where the
$R^\top \delta_{t+1}$ is left out if t + 1 begins a chunk.

*Common mistakes:* setting the state to 0 at a chunk's start changes the outputs as well; detaching after the step cuts one token too late; without any
detach one holds the whole text in memory, and the second `backward()` fails or runs through everything again.
"""

HINTS = (
    "Which one value links two chunks? What must stay the same about it, and what must go?",
    "h.detach() keeps the numbers and cuts the history. Do it before the step of token t if t is a multiple of k.",
    "loop: if t % k == 0: h = h.detach(); h = torch.tanh(R @ h + u_t); add 0.5 * h.square().sum(). Then torch.autograd.grad(loss, R).",
)


def reference(R, u, h, k):
    """By hand, from the last token to the first, in float64."""
    R, states = R.detach().double(), [h.detach().double()]
    for u_t in u.double():
        states.append(torch.tanh(R @ states[-1] + u_t))
    total, back = torch.zeros_like(R), torch.zeros_like(states[0])
    for t in reversed(range(len(u))):
        delta = (1 - states[t + 1] ** 2) * (states[t + 1] + back)
        total += torch.outer(delta, states[t])
        back = R.T @ delta if t % k else torch.zeros_like(delta)
    return total.float()


def cases(rng):
    def case(name, T, D, k, scale=0.7):
        R = torch.linalg.qr(_randn(rng, D, D)).Q * 1.1
        return Case(
            name,
            {
                "R": R,
                "u": scale * _randn(rng, T, D),
                "h": torch.tanh(_randn(rng, D)),
                "k": k,
            },
        )

    return [
        case("T = 1", 1, 3, 4),
        case("k = 1: every step is cut", 6, 3, 1),
        case("k = T: one chunk", 6, 3, 6),
        case("T = 2 k", 8, 4, 4),
        case("odd T, k = 3", 11, 3, 3),
        case("one cell", 9, 1, 2),
        case("large inputs", 7, 3, 2, 8.0),
        case("k longer than the text", 5, 4, 20),
        case("longer", 40, 4, 8, 0.3),
    ]


OUTPUTS = ("gradient",)

TIME_AXIS = None


def _in_chunks(R, u, h, k):
    R, total = R.detach().clone().requires_grad_(), torch.zeros_like(R)
    for part in u.split(k):
        loss, h = 0.0, h.detach()
        for row in part:
            h = torch.tanh(torch.mv(R, h) + row)
            loss = loss + (h * h).sum() / 2
        total = total + torch.autograd.grad(loss, R)[0]
    return total


def _by_hand(R, u, h, k):
    states = [h]
    for row in u:
        states.append((R @ states[-1] + row).tanh())
    total, carried = torch.zeros_like(R), torch.zeros_like(h)
    for t in range(len(u) - 1, -1, -1):
        d = (states[t + 1] + carried) * (1 - states[t + 1].square())
        total = total + d[:, None] * states[t]
        carried = R.mT @ d * float(t % k != 0)
    return total


def _forward(R, u, h, k):
    """Forward in time: ∂h/∂R is carried along (D, D, D), and forgotten where a chunk begins."""
    D = len(h)
    slope, total = torch.zeros(D, D, D), torch.zeros(D, D)
    for t, row in enumerate(u):
        if t % k == 0:
            slope = torch.zeros_like(slope)
        direct = torch.eye(D)[:, :, None] * h
        h = torch.tanh(R @ h + row)
        slope = (1 - h**2)[:, None, None] * (
            direct + torch.einsum("de, eij -> dij", R, slope)
        )
        total = total + torch.einsum("d, dij -> ij", h, slope)
    return total


ALTERNATIVES = (_in_chunks, _by_hand, _forward)

MISTAKES = """
h = h.detach() → pass
    Nothing is cut: this is the gradient through the whole text.
if t % k == 0: ⏎ h = h.detach() → h = h.detach()
    The gradient is cut at every step, as for k = 1: within a chunk it must go through.
h = h.detach() → h = torch.zeros_like(h)
    The state itself is lost at the start of a chunk (of the first, too): only its history should be, the numbers stay.
if t % k == 0 → if t and t % k == 0 ; h = h.detach() → h = torch.zeros_like(h)
    The state is lost between two chunks: only its history should be, the numbers stay.
t % k == 0 → (t + 1) % k == 0
    The cut is one step too early: the chunks must begin at tokens 0, k, 2k, …
if t % k == 0: ⏎ h = h.detach() ⏎ h = torch.tanh(R @ h + u_t) ⏎ loss = loss + 0.5 * h.square().sum() → h = torch.tanh(R @ h + u_t) ⏎ loss = loss + 0.5 * h.square().sum() ⏎ if t % k == 0: h = h.detach()
    The state is detached after the step at t = 0, k, 2k, …, one step too late: detach before it, so that the chunk's first step is part of its chunk.
* → total, states = torch.zeros_like(R), [h] ⏎ for u_t in u: states.append(torch.tanh(R @ states[-1] + u_t)) ⏎ for t in range(len(u)): W = R.detach().clone().requires_grad_(); start = max(0, t - k + 1); now = states[start]; now = [now := torch.tanh(W @ now + u[i]) for i in range(start, t + 1)][-1]; total = total + torch.autograd.grad(0.5 * now.square().sum(), W)[0] ⏎ return total
    Each token's loss goes back k steps from that token, in a window that slides. The text cuts at fixed tokens, 0, k, 2k, …: the first token of a chunk goes back one step only.
loss = loss + 0.5 * h.square().sum() → loss = loss + 0.5 * h.square().sum() * ((t + 1) % k == 0 or t + 1 == len(u))
    Only the last token of each chunk has a loss: L is a sum over all tokens.
if t % k == 0: ⏎ h = h.detach() → if t % k == 0: h, loss = h.detach(), torch.zeros(())
    Only the last chunk counts: the gradients of all chunks must be added up.
return gradient → return gradient / -(-len(u) // k)
    The gradient is divided by the number of chunks: L is a sum over all tokens, so the chunks' gradients are added.
loss = loss + 0.5 * h.square().sum() → loss = 0.5 * h.square().sum()
    Only the last token's loss counts: L is a sum over all tokens.
0.5 * h.square().sum() → h.square().sum()
    The factor ½ of the loss is missing: the gradient is twice as large.
0.5 * h.square().sum() → 0.5 * h.square().mean()
    The loss is a mean over the channels: it is their sum.
torch.tanh(R @ h + u_t) → torch.tanh(h @ R + u_t)
    The state is multiplied by Rᵀ: h @ R is R.mT @ h.
return gradient → return gradient.mT
    Your gradient is transposed.
return gradient → return -gradient
    The sign is wrong: the gradient itself was asked for, not a step down.
return gradient → return gradient / len(u)
    The gradient is divided by T: L is a sum over the tokens, not a mean.
"""
