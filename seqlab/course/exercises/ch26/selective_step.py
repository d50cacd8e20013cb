"""The step inside the kernel

*Fuse everything between Mamba's projections into one loop. · 15 minutes · ●●○ · 2 points*

The page's kernel gets Δ ready-made and leaves the skip and the gate to PyTorch. Mamba's own kernel takes them in, so that Δ and the ungated output never reach memory:

    Δ_t = softplus(dt_t + bias)        h_t = exp(Δ_t A) h_{t-1} + Δ_t x_t B_t
    y_t = (C_t · h_t + D x_t) · silu(z_t)        silu(z) = z / (1 + exp(-z))

`selective(x, dt, bias, A, B, C, D, z)` returns y (T, E) and the last state (E, N), from an empty one. x, dt and z are (T, E), bias and D (E,), A (E, N) below 0, B and C (T, N). E is a multiple of 16. softplus(u) = log(1 + exp(u)) would overflow for large u; max(u, 0) + log(1 + exp(-|u|)) is the same and does not.

Write the kernel; the launch is given.
"""

import torch

from seqlab.course.exercise import Case
from seqlab.gpu.anywhere import tl, triton

KERNEL = "selective"


@triton.jit
def selective_kernel(p_x, p_dt, p_bias, p_A, p_B, p_C, p_D, p_z, p_y, p_last, T, E,
                     N: tl.constexpr, BE: tl.constexpr):  # fmt: skip
    """y and the last state of BE channels."""
    ### BEGIN SOLUTION
    o_e, o_n = tl.program_id(0) * BE + tl.arange(0, BE), tl.arange(0, N)
    at = o_e[:, None] * N + o_n[None, :]
    b_A, b_h = tl.load(p_A + at), tl.zeros((BE, N), tl.float32)
    b_bias, b_D = tl.load(p_bias + o_e), tl.load(p_D + o_e)
    for t in range(0, T):
        b_x, b_z = tl.load(p_x + t * E + o_e), tl.load(p_z + t * E + o_e)
        b_u = tl.load(p_dt + t * E + o_e) + b_bias
        b_dt = tl.maximum(b_u, 0.0) + tl.log(1 + tl.exp(-tl.abs(b_u)))
        b_B = tl.load(p_B + t * N + o_n)[None, :]
        b_C = tl.load(p_C + t * N + o_n)[None, :]
        b_h = tl.exp(b_dt[:, None] * b_A) * b_h + (b_dt * b_x)[:, None] * b_B
        b_y = tl.sum(b_h * b_C, 1) + b_D * b_x
        tl.store(p_y + t * E + o_e, b_y * b_z / (1 + tl.exp(-b_z)))
    tl.store(p_last + at, b_h)
    ### END SOLUTION


def selective(x, dt, bias, A, B, C, D, z):
    """y (T, E) and the last state (E, N)."""
    (T, E), N = x.shape, A.shape[1]
    y, last = torch.empty_like(x), torch.empty_like(A)
    given = x, dt, bias, A, B, C, D, z, y, last, T, E
    selective_kernel[(E // 16,)](*given, N=N, BE=16)
    return y, last


WHY = """
**Solution.** The loop of the page, with three lines more. Whatever belongs to one token and one channel costs nothing to fuse: it is in a register already.

**What is saved?** Δ would be written and read once, the ungated y too: 8 bytes a token and channel in bf16, beside the 8 that x, dt, z and y need.

**Common mistakes.** The gate before the skip; Δ in the decay but not in the write; y from the state before the write, although C_t reads h_t. Some write log(1 + exp(u)) without a bound: in float32 it is infinite above u = 88, and then Δ A is -∞ and Δ x infinite.
"""

HINTS = (
    "Which of the numbers belong to a channel, which to a number of the state? Bring those of a channel to (BE,), and use [:, None] where they meet the state.",
    "Before the loop: A, bias, D and an empty state. In the loop: Δ from dt and bias, the step as on the page, y = sum over N, plus D x, times silu(z).",
    "b_dt = tl.maximum(b_u, 0) + tl.log(1 + tl.exp(-tl.abs(b_u))); b_h = tl.exp(b_dt[:, None] * b_A) * b_h + (b_dt * b_x)[:, None] * b_B; b_y = tl.sum(b_h * b_C, 1) + b_D * b_x.",
)


def reference(x, dt, bias, A, B, C, D, z):
    x, dt, bias, A, B, C, D, z = (u.double() for u in (x, dt, bias, A, B, C, D, z))
    step = torch.nn.functional.softplus(dt + bias)
    h, ys = torch.zeros_like(A), []
    for t in range(len(x)):
        h = (step[t, :, None] * A).exp() * h + torch.outer(step[t] * x[t], B[t])
        ys.append((h @ C[t] + D * x[t]) * torch.nn.functional.silu(z[t]))
    return torch.stack(ys).float(), h.float()


def cases(rng):
    def draw(*shape):
        return torch.randn(*shape, generator=rng)

    found = []
    for name, (T, E, N) in {
        "one token": (1, 16, 4),
        "two programs": (13, 32, 4),
        "large steps": (7, 16, 8),
    }.items():
        inputs = {"x": draw(T, E), "dt": draw(T, E), "bias": draw(E)}
        if name == "large steps":
            inputs["dt"] = inputs["dt"].clone()
            inputs["dt"][3] += 100
        inputs |= {"A": -draw(E, N).exp() / 2, "B": draw(T, N), "C": draw(T, N)}
        found.append(Case(name, inputs | {"D": draw(E), "z": draw(T, E)}))
    return found


OUTPUTS = ("y", "last")


@triton.jit
def by_channel_kernel(p_x, p_dt, p_bias, p_A, p_B, p_C, p_D, p_z, p_y, p_last, T, E,
                      N: tl.constexpr):  # fmt: skip
    e, o_n = tl.program_id(0), tl.arange(0, N)
    b_A, b_h = tl.load(p_A + e * N + o_n), tl.zeros((N,), tl.float32)
    for t in range(0, T):
        x, z = tl.load(p_x + t * E + e), tl.load(p_z + t * E + e)
        u = tl.load(p_dt + t * E + e) + tl.load(p_bias + e)
        dt = tl.where(u > 20.0, u, tl.log(1 + tl.exp(tl.minimum(u, 20.0))))
        b_h = tl.exp(dt * b_A) * b_h + dt * x * tl.load(p_B + t * N + o_n)
        y = tl.sum(b_h * tl.load(p_C + t * N + o_n), 0) + tl.load(p_D + e) * x
        tl.store(p_y + t * E + e, y * z / (1 + tl.exp(-z)))
    tl.store(p_last + e * N + o_n, b_h)


def by_channel(x, dt, bias, A, B, C, D, z):
    (T, E), N = x.shape, A.shape[1]
    y, last = torch.empty_like(x), torch.empty_like(A)
    given = x, dt, bias, A, B, C, D, z, y, last, T, E
    by_channel_kernel[(E,)](*given, N=N)
    return y, last


ALTERNATIVES = (by_channel,)

MISTAKES = """
tl.maximum(b_u, 0.0) + tl.log(1 + tl.exp(-tl.abs(b_u))) → b_u
    The softplus is missing: Δ must be above 0.
tl.maximum(b_u, 0.0) + tl.log(1 + tl.exp(-tl.abs(b_u))) → tl.maximum(b_u, 0.0)
    Δ is max(u, 0): the logarithm is missing.
(b_dt * b_x)[:, None] * b_B → b_x[:, None] * b_B
    Δ is in the decay, but not in the write.
tl.exp(b_dt[:, None] * b_A) * b_h → tl.exp(b_A) * b_h
    The decay does not depend on Δ.
b_y * b_z / (1 + tl.exp(-b_z)) → b_y / (1 + tl.exp(-b_z))
    The gate is a sigmoid: silu(z) is z times that.
tl.store(p_y + t * E + o_e, b_y * b_z / (1 + tl.exp(-b_z))) → tl.store(p_y + t * E + o_e, (b_y - b_D * b_x) * b_z / (1 + tl.exp(-b_z)) + b_D * b_x)
    The skip goes past the gate: D x is added before it.
b_h = tl.exp(b_dt[:, None] * b_A) * b_h + (b_dt * b_x)[:, None] * b_B⏎b_y = tl.sum(b_h * b_C, 1) + b_D * b_x → b_y = tl.sum(b_h * b_C, 1) + b_D * b_x⏎b_h = tl.exp(b_dt[:, None] * b_A) * b_h + (b_dt * b_x)[:, None] * b_B
    C reads the state before the token is written: a token reads its own write.
"""
