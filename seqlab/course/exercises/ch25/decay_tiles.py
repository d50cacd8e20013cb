"""Bug hunt: sums inside a tile

*Find two faults in sums of logs: one loses digits, one makes NaN. · 15 minutes · ●●○ · 2 points*

`suspect_tiles(log_a)` above computes, for chunks of 32 tokens, the decay from token j to token i of the chunk: d_ij = exp(log a_{j+1} + … + log a_i) for j ≤ i, and 0 for j > i. It was tried on weak gates in float32, and it was right. Models call it with logs in **float16**, and some of their gates are strong.
There are two faults in `suspect_kernel`; each shows on other inputs.

`decay_tiles(log_a)` returns d (N, H, 32, 32) in float32, for log_a (T, H) in float16 or float32, with T = 32 N. Logs are finite; a chunk's sum may be -300. Decays must be as accurate as float32 sums of the given numbers allow.

Change the kernel as you like; the launch is that of the suspect.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "decay_tiles"


@triton.jit
def decay_tiles_kernel(p_a, p_d, H, C: tl.constexpr):
    """d of chunk program_id(0) of head program_id(1)."""
    ### BEGIN SOLUTION
    c, i_h, o = tl.program_id(0), tl.program_id(1), tl.arange(0, C)
    b_a = tl.load(p_a + (c * C + o) * H + i_h).to(tl.float32)
    b_G = tl.cumsum(b_a, 0)
    later = o[:, None] >= o[None, :]
    b_d = tl.exp(tl.where(later, b_G[:, None] - b_G[None, :], float("-inf")))
    tl.store(p_d + ((c * H + i_h) * C + o[:, None]) * C + o[None, :], b_d)
    ### END SOLUTION


def decay_tiles(log_a):
    """d (N, H, 32, 32)."""
    T, H = log_a.shape
    d = torch.empty(T // 32, H, 32, 32)
    decay_tiles_kernel[(T // 32, H)](log_a, d, H, C=32)
    return d


WHY = """
**Solution.** *The sum has the type of its input.* `tl.cumsum` of a float16 tile adds in float16. Near 64 its numbers are 1/16 apart, so a decay is off by several per cent, and nobody sees it: the results look plausible. Convert before you add. To convert afterwards is too late, because the digits are gone.

*The mask comes after exp.* For j > i the difference is positive. If the gates are strong, exp of it is ∞, and ∞ · 0 is NaN. Mask the exponent: exp(-∞) = 0.

**Why did nobody notice?** In float32, and with weak gates, neither fault shows. The second appears when training makes gates strong (section 5 of the page).

**Another way** is to sum each span by itself: a cumulative sum over rows of tl.where(i > j, log a_i, 0). It costs C² additions and needs no difference.
"""

HINTS = (
    "Which type has b_G in the suspect? And what is exp of a difference above the diagonal?",
    "Convert the loaded logs to float32 before the sum. Give the exponent -∞ where j > i, instead of multiplying by 0 afterwards.",
    'b_a = tl.load(…).to(tl.float32); b_d = tl.exp(tl.where(o[:, None] >= o[None, :], b_G[:, None] - b_G[None, :], float("-inf"))).',
)


def reference(log_a):
    T, H = log_a.shape
    logs = log_a.double().view(-1, 32, H).transpose(1, 2)
    d = torch.zeros(T // 32, H, 32, 32, dtype=torch.float64)
    for i in range(32):
        for j in range(i + 1):
            d[..., i, j] = logs[..., j + 1 : i + 1].sum(-1).exp()
    return d.float()


def cases(rng):
    sizes = {
        "weak gates": (64, 2, 0.1, torch.float32),
        "float16": (64, 1, 2.0, torch.float16),
        "float16, strong": (32, 2, 14.0, torch.float16),
    }
    return [
        Case(
            name, {"log_a": (-size * torch.rand(T, H, generator=rng) - 0.01).to(dtype)}
        )
        for name, (T, H, size, dtype) in sizes.items()
    ]


OUTPUTS = ("d",)


@triton.jit
def own_spans_kernel(p_a, p_d, H, C: tl.constexpr):
    c, i_h, o = tl.program_id(0), tl.program_id(1), tl.arange(0, C)
    b_a = tl.load(p_a + (c * C + o) * H + i_h).to(tl.float32)[:, None]
    b_sum = tl.cumsum(tl.where(o[:, None] > o[None, :], b_a, 0.0), 0)
    b_d = tl.where(o[:, None] >= o[None, :], tl.exp(b_sum), 0.0)
    tl.store(p_d + ((c * H + i_h) * C + o[:, None]) * C + o[None, :], b_d)


def own_spans(log_a):
    T, H = log_a.shape
    d = torch.empty(T // 32, H, 32, 32)
    own_spans_kernel[(T // 32, H)](log_a, d, H, C=32)
    return d


ALTERNATIVES = (own_spans,)

MISTAKES = """
tl.load(p_a + (c * C + o) * H + i_h).to(tl.float32) → tl.load(p_a + (c * C + o) * H + i_h)
    The sum is made in float16: convert the logs before you add them.
later = o[:, None] >= o[None, :] → later = o[:, None] > o[None, :]
    The diagonal is 0: nothing lies between a token and itself, so d_ii = 1.
b_G[:, None] - b_G[None, :], float("-inf") → b_G[:, None] - b_G[None, :] + b_a[None, :], float("-inf")
    The gate of token j is counted, too: the span begins with that of j + 1.
b_G[:, None] - b_G[None, :], float("-inf") → b_G[:, None] - b_G[None, :] - b_a[:, None], float("-inf")
    The gate of token i is left out: the span ends with it.
tl.where(later, b_G[:, None] - b_G[None, :], float("-inf")) → tl.where(later, b_G[:, None] - b_G[None, :], 0.0)
    Above the diagonal the decay is 1: it must be 0, because the future is not read.
"""
