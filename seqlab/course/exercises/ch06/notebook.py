# %% [markdown]
# # Exercises 06 · State spaces
#
# You write the parts of a state space model: the gain of a held input, the bilinear rule, a kernel by doubling, two scans. On the way you
# mend a convolution and a selective scan, and work out what a million tokens cost. The project builds a delay line of a few numbers.
#
# {count} exercises, {points} points, about {minutes} minutes. They go with the chapter `06_state_spaces`, and get harder towards the end.
# Each stands alone: you can skip one and come back.
#
# {how 06.3}
#
# **Shapes.** Time comes first: x is (B, T, D). A state h has no time axis.

# %%
import math
import time

import plotly.graph_objects as go
import torch

from seqlab.core import discretize, scan
from seqlab.core.discretize import hippo_legt
from seqlab.course import (
    check,
    hint,
    open_question,
    predict,
    progress,
    show_solution,
    when_written,
)
from seqlab.figures import bars
from seqlab.figures.theme import COLORS, figure

# %% [markdown] tags=["exercise"]
# gain

# %% [markdown] tags=["exercise"]
# bilinear

# %% [markdown] tags=["exercise"]
# kernel

# %% [markdown]
# The picture takes your `bilinear` and your `kernel` and draws the kernel that HiPPO makes if C is 1 in one place.


# %%
@when_written
def picture_of_kernels():
    A, B = (u.float() for u in discretize.hippo_legs(8))
    A_bar, B_bar = bilinear(A[None], B[None], torch.tensor([0.02]))
    lines = [
        go.Scatter(
            y=kernel(A_bar[0], B_bar[0], torch.eye(8)[n], 200).tolist(),
            name=f"entry {n} of the state",
            line_color=list(COLORS.values())[n],
        )
        for n in (0, 1, 2, 5)
    ]
    return figure(
        *lines,
        title="Higher entries of HiPPO's state swing more often",
        x="age, in tokens",
        y="K",
    )


# %% [markdown] tags=["heading"]
# convolve


# %%
def suspect_convolution(x, kernel, past):
    inputs = torch.cat([past, x], dim=1)
    length = inputs.shape[1]
    spectrum = torch.fft.rfft(inputs, dim=1) * torch.fft.rfft(kernel.mT, length, dim=0)
    y = torch.fft.irfft(spectrum, length, dim=1)
    return y[:, : length - past.shape[1]]


def symptoms_of_convolution(convolve):
    """A single 1 at the end of a text; and a text at once and in two parts."""
    generator = torch.Generator().manual_seed(0)
    kernel, none = torch.ones(1, 8) / 2, torch.zeros(1, 0, 1)
    last = torch.zeros(1, 8, 1)
    last[:, 7] = 1
    found = [round(v, 2) for v in convolve(last, kernel, none)[0, :, 0].tolist()]
    print("a 1 at the last of 8 tokens, before it y should be 0:", found)
    x = torch.randn(1, 8, 1, generator=generator)
    whole = convolve(torch.cat([x, 0 * x], dim=1), kernel, none)[:, 5:8]
    gap = (convolve(x[:, 5:], kernel, x[:, :5]) - whole).abs()[0, :, 0].tolist()
    print("tokens 5 to 7 after a past of 5, should be 0:", [round(v, 2) for v in gap])


symptoms_of_convolution(suspect_convolution)

# %% [markdown] tags=["exercise"]
# convolve

# %%
when_written(lambda: symptoms_of_convolution(convolve))

# %% [markdown] tags=["exercise"]
# join

# %% [markdown] tags=["exercise"]
# hillis_steele

# %% [markdown]
# Now the clock, for 4,096 tokens and 16 channels on this machine. Your scan makes 11 times as many joins as a loop. Say first what you expect.


# %% tags=["measured"]
def picture_of_scans():
    a, b = torch.rand(2, 4, 4096, 16, generator=torch.Generator().manual_seed(0))
    ms = {}
    for name, form in {
        "a loop": scan.sequential,
        "your Hillis-Steele": hillis_steele,
        "chunks (linear_scan)": scan.linear_scan,
    }.items():
        took = []
        for _ in range(3):
            start = time.perf_counter()
            form(a, b, torch.zeros(4, 16))
            took.append(1000 * (time.perf_counter() - start))
        ms[name] = min(took)
    return bars(
        ms, title="Depth costs more than work, until work is what is left", y="ms"
    )


predict(
    "06-scans",
    "Which is the slowest?",
    picture_of_scans,
    choices=["a loop", "your Hillis-Steele", "chunks (linear_scan)"],
)

# %% [markdown]
# The loop does the least arithmetic, but in 4,096 small operations, each with its fixed cost, so it is usually the slowest by far. Your scan needs 13
# large ones and does 11 times the arithmetic. The chunks of `linear_scan` have some 130 operations and little more arithmetic than the loop.

# %% [markdown] tags=["heading"]
# selective


# %%
def suspect_scan(x, dt, A, B, C, h):
    a = torch.exp(dt[..., None] * A)  # (B, T, E, N)
    write = (a - 1) / A * B[:, :, None] * x[..., None]
    P = a.cumprod(dim=1)
    hs = P * (h[:, None] + (write / (P + 1e-6)).cumsum(dim=1))
    return (hs * C[:, :, None]).sum(-1), hs[:, -1]


def symptoms_of_scan(selective):
    """One token with a step of 2; then 40 tokens with steps of 1."""
    one, A = torch.ones(1, 1, 1), -torch.ones(1, 1)
    y, _ = selective(one, 2 * one, A, one, one, torch.zeros(1, 1, 1))
    print(f"one token, Δ = 2, x = B = C = 1: y should be 2, is {y.item():.3f}")
    many = torch.ones(1, 40, 1)
    y, _ = selective(many, many, A, many, many, torch.zeros(1, 1, 1))
    print("40 tokens, Δ = 1: the last three y should be 1.582, are", end=" ")
    print([round(v, 3) for v in y[0, -3:, 0].tolist()])


symptoms_of_scan(suspect_scan)

# %% [markdown] tags=["exercise"]
# selective

# %%
when_written(lambda: symptoms_of_scan(selective))

# %% [markdown] tags=["exercise"]
# ring

# %% [markdown] tags=["exercise"]
# cache_over_mamba

# %% [markdown] tags=["question"]
# what_hippo_gave

# %% [markdown] tags=["exercise"]
# delay_line

# %% [markdown]
# The picture sends a slow signal through your delay line of 100 tokens.


# %%
@when_written
def picture_of_delay():
    A, B, C = delay_line(100)
    t = torch.arange(700).double()
    x = torch.sin(t / 60) + 0.5 * torch.sin(t / 23)
    h, y = torch.zeros_like(B), []
    for x_t in x:
        h = A @ h + B * x_t
        y.append((C @ h).item())
    lines = [
        go.Scatter(y=x.tolist(), name="the signal", line_color=COLORS["decay"]),
        go.Scatter(y=y, name="out of the delay line", line_color=COLORS["write"]),
    ]
    return figure(
        *lines,
        title=f"{len(B)} numbers delay a slow signal by 100 tokens",
        x="token",
        y="signal",
    )


# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 06` on the command line gives the
# mark.

# %%
progress()
