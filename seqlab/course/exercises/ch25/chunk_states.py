"""What each chunk adds to the state

*Write the part of the walk in which no chunk waits for another. · 15 minutes · ●●○ · 2 points*

The page's walk computes what a chunk adds to the state, and passes the state on, in one loop. Split it: the first half can be done for all chunks at once. With f_j the product of the gates *after* token j up to the end of its chunk,

    U = Σ_j v_j (f_j k_j)ᵀ over the tokens of a chunk        decay = the product of all gates of the chunk.

`chunk_states(k, v, log_a)` returns U (N, H, V, K) and decay (N, H) in float32, for chunks of 16 tokens; N is ⌈T / 16⌉. k is (T, H, K), v (T, H, V), log_a (T, H, 1), all float32; K and V are 16 or 32. **A gate may be 0**, so that its log is -∞: then what was written before it is gone, and what comes
after it is whole. Note that the page's `cumsum - b_a` would give -∞ + ∞ there.

Write the kernel; the launch is given. `load_rows` loads tokens of a head, as `rows` on the page; its T says where zeros begin.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton
from seqlab.gpu.rows import load_rows

KERNEL = "chunk_states"


@triton.jit
def chunk_states_kernel(p_k, p_v, p_a, p_U, p_decay, T, H,
                        K: tl.constexpr, V: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """U and decay of chunk program_id(0) of head program_id(1)."""
    ### BEGIN SOLUTION
    c, i_h = tl.program_id(0), tl.program_id(1)
    first = c * C
    end = tl.minimum(first + C, T)
    b_k, b_v = (
        load_rows(p_k, first, T, i_h, H, C, K),
        load_rows(p_v, first, T, i_h, H, C, V),
    )
    b_a = load_rows(p_a, first, end, i_h, H, C, 1)
    b_next = load_rows(p_a, first + 1, end, i_h, H, C, 1)
    b_f = tl.exp(tl.cumsum(b_next, 0, reverse=True))
    b_U = tl.dot(tl.trans(b_v), b_k * b_f, input_precision="ieee")
    o_v, o_k = tl.arange(0, V)[:, None], tl.arange(0, K)[None, :]
    tl.store(p_U + ((c * H + i_h) * V + o_v) * K + o_k, b_U)
    tl.store(p_decay + c * H + i_h, tl.exp(tl.sum(b_a)))
    ### END SOLUTION


def chunk_states(k, v, log_a):
    """U (N, H, V, K) and decay (N, H), for chunks of 16 tokens."""
    (T, H, K), V = k.shape, v.shape[2]
    N = triton.cdiv(T, 16)
    U, decay = k.new_empty(N, H, V, K), k.new_empty(N, H)
    given = k, v, log_a, U, decay, T, H
    chunk_states_kernel[(N, H)](*given, K=K, V=V, C=16)
    return U, decay


WHY = """
**Solution.** f_j needs the gates of the tokens j + 1 … end. Load them as they are: a tile that begins one token later and ends with the chunk, whose reversed cumulative sum at row j is exactly that span. No number is subtracted, so log a = -∞ does no harm: exp(-∞) = 0.

**The end of that tile matters twice.** At the chunk's end, or the first gate of the *next* chunk would be counted; and at T, where there is nothing.

**Another way** is a C × C matrix of spans, as for the pairs; its last row is f. It costs C times as many additions.

**What for?** N · H programs instead of H. The price: U is written and read once more than in the page's walk.
"""

HINTS = (
    "Which gates does f_j multiply? Can you load exactly these, so that nothing must be subtracted afterwards?",
    "Load the gates once more, from token first + 1 on, with zeros from min(first + C, T) on. A reversed cumsum of them has at row j the sum over j + 1 … end.",
    "b_next = load_rows(p_a, first + 1, tl.minimum(first + C, T), i_h, H, C, 1); f = tl.exp(tl.cumsum(b_next, 0, reverse=True)); U = tl.dot(tl.trans(b_v), b_k * f).",
)


def reference(k, v, log_a):
    Us, decays = [], []
    for span in torch.arange(len(k)).split(16):
        U = v.new_zeros(k.shape[1], v.shape[2], k.shape[2]).double()
        for t in span:
            a = log_a[t].double().exp()[:, :, None]
            U = a * U + v[t].double()[:, :, None] * k[t].double()[:, None, :]
        Us.append(U)
        decays.append(log_a[span].double().sum(0)[:, 0].exp())
    return torch.stack(Us).float(), torch.stack(decays).float()


def cases(rng):
    def draw(*shape):
        return torch.randn(*shape, generator=rng)

    found = []
    for name, (T, H, K, V) in {
        "one token": (1, 1, 16, 32),
        "a ragged end": (21, 2, 16, 32),
        "gates of 0": (37, 1, 16, 16),
    }.items():
        log_a = -torch.rand(T, H, 1, generator=rng) / 4 - 0.02
        if name == "gates of 0":
            log_a[[5, 15, 32]] = -torch.inf
        found.append(
            Case(name, {"k": draw(T, H, K), "v": draw(T, H, V), "log_a": log_a})
        )
    return found


OUTPUTS = ("U", "decay")


@triton.jit
def by_tokens_kernel(p_k, p_v, p_a, p_U, p_decay, T, H,
                     K: tl.constexpr, V: tl.constexpr, C: tl.constexpr):  # fmt: skip
    i_h, c = tl.program_id(0), tl.program_id(1)
    o_k, o_v = tl.arange(0, K), tl.arange(0, V)
    b_U, whole = tl.zeros((V, K), tl.float32), 1.0
    for t in range(c * C, tl.minimum(c * C + C, T)):
        row = t * H + i_h
        a = tl.exp(tl.load(p_a + row))
        b_k, b_v = tl.load(p_k + row * K + o_k), tl.load(p_v + row * V + o_v)
        b_U = a * b_U + b_v[:, None] * b_k[None, :]
        whole = whole * a
    at = ((c * H + i_h) * V + o_v[:, None]) * K + o_k[None, :]
    tl.store(p_U + at, b_U)
    tl.store(p_decay + c * H + i_h, whole)


def by_tokens(k, v, log_a):
    (T, H, K), V = k.shape, v.shape[2]
    N = triton.cdiv(T, 16)
    U, decay = k.new_empty(N, H, V, K), k.new_empty(N, H)
    by_tokens_kernel[(H, N)](k, v, log_a, U, decay, T, H, K=K, V=V, C=16)
    return U, decay


ALTERNATIVES = (by_tokens,)

MISTAKES = """
b_next = load_rows(p_a, first + 1, end, i_h, H, C, 1) → b_next = b_a
    A write is decayed by its own gate, too: f_j begins with the gate of token j + 1.
b_next = load_rows(p_a, first + 1, end, i_h, H, C, 1) → b_next = load_rows(p_a, first + 1, T, i_h, H, C, 1)
    The decay of a write goes one token too far, into the next chunk: end it with its own.
b_f = tl.exp(tl.cumsum(b_next, 0, reverse=True)) → b_f = tl.exp(tl.cumsum(b_a, 0))
    This decays each write by the gates up to it, from the chunk's start: it needs those after it, up to the chunk's end.
b_k * b_f → b_k
    No write is decayed: f is missing.
tl.exp(tl.sum(b_a)) → tl.sum(b_a)
    decay is the log of what is asked for.
tl.exp(tl.sum(b_a)) → tl.exp(tl.sum(b_next))
    decay leaves out the gate of the chunk's first token.
"""
