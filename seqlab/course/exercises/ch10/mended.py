r"""Bug hunt: a text in chunks

*Find what is wrong in code that runs, from how its answers differ. · 15 minutes · ●●● · 3 points*

This function computes the mLSTM chunk by chunk, each chunk by all pairs. It runs, a single chunk gives the right y, and a model trains with it. It has **two bugs**. Run the cell below: it shows two symptoms. Then write the
right version into `mended`. You may copy the code and change a few lines.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.course.exercises.ch10.shared import log_gates, randn, whole


def mended(q, k, v, i, log_f, chunk):
    """The mLSTM from an empty memory (m = 0). q, k (B, T, H, K), v (B, T, H, V), i and log_f (B, T, H); T need not be a multiple of chunk: y."""
    ### BEGIN SOLUTION
    B, _, H, K = q.shape
    S, n, m = q.new_zeros(B, H, v.shape[-1], K), q.new_zeros(B, H, K), q.new_zeros(B, H)
    ys = []
    for part in range(0, q.shape[1], chunk):
        here = slice(part, part + chunk)
        qc, kc, vc = (u[:, here].transpose(1, 2) for u in (q, k, v))  # (B, H, C, _)
        ic, F = i[:, here].mT, log_f[:, here].mT.cumsum(-1)  # (B, H, C)
        later = torch.ones(F.shape[-1], F.shape[-1]).triu(1).bool()
        D = (F[..., :, None] - F[..., None, :] + ic[..., None, :]).masked_fill(
            later, -torch.inf
        )
        old = F + m[..., None]  # the exponent of the memory from before
        top = torch.maximum(D.amax(-1), old)
        weights = (D - top[..., None]).exp() * (qc @ kc.mT)
        since = (old - top).exp()[..., None]
        read = weights @ vc + since * (qc @ S.mT)
        size = weights.sum(-1) + (since * (qc @ n[..., None]))[..., 0]
        ys.append(read / torch.maximum(size.abs(), (-top).exp())[..., None])
        left = F[..., -1:] - F + ic  # the exponent of each write at the end
        new = torch.maximum(left.amax(-1), F[..., -1] + m)
        keep, write = (F[..., -1] + m - new).exp(), (left - new[..., None]).exp()
        S = keep[..., None, None] * S + (write[..., None] * vc).mT @ kc
        n = keep[..., None] * n + (write[..., None] * kc).sum(-2)
        m = new
    return torch.cat(ys, dim=-2).transpose(1, 2)
    ### END SOLUTION


WHY = r"""
**The first bug**: m was not carried. S and n leave a chunk divided by $e^{m}$, and the next chunk took them as if they were divided by $e^0$. With gentle gates m is near 0 and nothing shows.

**The second bug**: the old memory was not brought to the new scale at the end of a chunk. Its gate was $e^{F}$, the fading alone; it has to be $e^{F + m - m'}$, because it was divided by $e^m$ and is now kept divided by $e^{m'}$.

**How to find such bugs.** Two runs of the same text with different chunks must agree. And a scale must not show: raise all $\tilde\imath$ by the same number, and as long as $|n · q|$ is above 1, y stays as it is.

*Common mistakes:* mending one of the two; the memory's exponent left out of the row's maximum (then $e^{old - top}$ may overflow).
"""

HINTS = (
    "Both bugs are about the scale of S and n between two chunks. With one chunk there is nothing to carry.",
    "By which e^m are S and n divided when the next chunk reads them? And when they are added to the new writes?",
    "m = new at the end of the loop, and keep = (F[..., -1] + m - new).exp().",
)


def reference(q, k, v, i, log_f, chunk):
    B, _, H, K = q.shape
    zeros = torch.zeros(B, H, v.shape[-1], K), torch.zeros(B, H, K), torch.zeros(B, H)
    return whole(q, k, v, i, log_f, *zeros)[0]


def cases(rng):
    def case(name, B, T, H, K, V, chunk, size=1.0, shift=0.0, fall=0.0):
        inputs = {"q": randn(rng, B, T, H, K), "k": randn(rng, B, T, H, K)}
        inputs |= {"v": randn(rng, B, T, H, V)}
        later = (torch.arange(T) >= chunk)[:, None].float()
        i = size * randn(rng, B, T, H) + shift + fall * (0.5 - later)
        inputs |= {"i": i}
        inputs = {name: x.requires_grad_() for name, x in inputs.items()}
        inputs |= {"log_f": log_gates(rng, B, T, H), "chunk": chunk}
        return Case(name, inputs)

    return [
        case("T = 1", 1, 1, 1, 3, 2, 4),
        case("one chunk", 2, 5, 2, 3, 4, 8),
        case("two chunks", 2, 8, 2, 3, 4, 4, shift=4.0),
        case("ragged, K ≠ V", 1, 11, 2, 5, 2, 3, shift=3.0),
        case("chunks of one", 1, 6, 2, 3, 3, 1, shift=4.0),
        case("loud tokens", 1, 13, 2, 3, 4, 4, size=40.0),
        case("a loud chunk, then quiet ones", 1, 10, 2, 3, 4, 4, fall=200.0),
        case("quiet tokens", 1, 9, 2, 3, 4, 4, shift=-8.0),
    ]


OUTPUTS = ("y",)

TIME_AXIS = 1


def parts_hint(t, inputs):
    if t < inputs["chunk"]:
        return "this is inside the first chunk, where nothing is carried yet. Did a line change there?"
    return "this is behind the first chunk: by which e^m are S and n divided when they are read?"


def _token_by_token(q, k, v, i, log_f, chunk):
    from seqlab.course.exercises.ch10.mlstm_step import mlstm_step as step

    B, T, H, K = q.shape
    state = torch.zeros(B, H, v.shape[-1], K), torch.zeros(B, H, K), torch.zeros(B, H)
    ys = []
    for t in range(T):
        y, *state = step(q[:, t], k[:, t], v[:, t], i[:, t], log_f[:, t], *state)
        ys.append(y)
    return torch.stack(ys, 1)


ALTERNATIVES = (_token_by_token,)

MISTAKES = """
n = keep[..., None] * n + (write[..., None] * kc).sum(-2) ⏎ m = new → n = keep[..., None] * n + (write[..., None] * kc).sum(-2) ; (F[..., -1] + m - new).exp() → F[..., -1].exp()
    Both bugs are still there: the next chunk does not know m, and the old memory is not brought to the new scale.
n = keep[..., None] * n + (write[..., None] * kc).sum(-2) ⏎ m = new → n = keep[..., None] * n + (write[..., None] * kc).sum(-2)
    m is not carried: S and n leave a chunk divided by e^m, so the next chunk has to start from that m.
(F[..., -1] + m - new).exp() → F[..., -1].exp()
    m is carried, but the old memory is not brought to the new scale: its gate is exp(F + m - new), not exp(F).
old = F + m[..., None] → old = F
    The reads take the old memory as if it were divided by e^0: its exponent is F + m.
n = keep[..., None] * n + (write[..., None] * kc).sum(-2) → n = n + (write[..., None] * kc).sum(-2)
    S is right, n is not: the normaliser fades and is rescaled by the same gate.
(write[..., None] * vc).mT → vc.mT
    The writes of a chunk have no weight in the S that is handed on.
torch.maximum(size.abs(), (-top).exp()) → size.abs().clamp(min=1)
    The read compares with 1: everything in it is divided by e^top, so the 1 becomes e^(-top).
size = weights.sum(-1) + (since * (qc @ n[..., None]))[..., 0] → size = weights.sum(-1)
    The normaliser leaves out what came before the chunk: n is read like S.
read = weights @ vc + since * (qc @ S.mT) → read = weights @ vc + qc @ S.mT
    The old memory is read without its gate: it fades inside the chunk, and it has its own scale.
"""
