# %% [markdown]
# # Exercises 12 · Long convolutions
#
# You count what the FFT saves and measure it, run a shift and two kinds of averages as states, mend a filter, build Hyena of any order, and decode without modes. The project replaces a long filter by a small state.
#
# {count} exercises, {points} points, about {minutes} minutes. They go with the chapter `12_long_convolutions`, and get harder towards the end.
# Each stands alone: you can skip one and come back.
#
# {how 12.1}

# %%
import math

import plotly.graph_objects as go
import torch

from seqlab.core.convolution import direct_conv, fft_conv
from seqlab.course import (
    check,
    hint,
    open_question,
    predict,
    progress,
    show_solution,
    when_written,
)
from seqlab.figures.theme import COLORS, LINES, figure
from seqlab.train import best_seconds

# %% [markdown] tags=["exercise"]
# when_fft

# %% [markdown]
# A count is not a time. The next cell times `seqlab`'s two convolutions on your machine: `fft_conv`, and `direct_conv`, which makes the matrix $h_{t-s}$ of each channel. One text, 8 channels. Say first from which length on the FFT is faster.


# %%
def picture_of_crossing():
    lengths, times = [2**n for n in range(2, 9)], {"FFT": [], "direct": []}
    for T in lengths:
        x, h = torch.randn(1, T, 8), torch.randn(8, T)
        times["FFT"].append(best_seconds(lambda x=x, h=h: fft_conv(x, h)))
        times["direct"].append(best_seconds(lambda x=x, h=h: direct_conv(x, h)))
    pairs = zip(lengths, times["FFT"], times["direct"], strict=True)
    faster = [T for T, a, b in pairs if a < b]
    title = (
        f"The FFT is faster at {len(faster)} of {len(lengths)} lengths"
        + f", the shortest {min(faster, default=0)}"
    )
    lines = [
        go.Scatter(
            x=lengths,
            y=ys,
            name=name,
            mode="lines+markers",
            line={"color": LINES[n], "dash": ("solid", "dash")[n]},
        )
        for n, (name, ys) in enumerate(times.items())
    ]
    fig = figure(*lines, title=title, x="tokens (log scale)", y="seconds (log scale)")
    fig.update_xaxes(type="log", tickvals=lengths, ticktext=[str(T) for T in lengths])
    return fig.update_yaxes(type="log", dtick="D2", exponentformat="power")


predict(
    "12-crossing",
    "From which T on is the FFT faster here?",
    picture_of_crossing,
    choices=["16 or less", "about 64", "about 256", "not up to 256"],
)

# %% [markdown]
# On the machine where this was written the FFT was faster from 16 on, and in some runs from 4 on: earlier than the count says. The direct way makes a T × T matrix for every channel, and making it costs more than the products. The chapter's comparison, with PyTorch's own convolution, has another crossing. A count of products is a bound on one part of the work.

# %% [markdown] tags=["exercise"]
# shift_step

# %% [markdown] tags=["exercise"]
# average

# %% [markdown] tags=["exercise"]
# real_pair

# %% [markdown]
# The picture feeds a single 1 into three modes that you step by hand.


# %%
@when_written
def picture_of_waves():
    angles = torch.tensor([0.0, 0.3, math.pi])
    c = s = torch.zeros(3)
    ys, one = [], torch.ones(3)
    for t in range(40):
        x = torch.tensor(float(t == 0))
        y, c, s = real_pair(x, c, s, 0.92 * one, angles, one, one, 0 * one)
        ys.append(y)
    lines = [
        go.Scatter(
            y=column.tolist(),
            name=f"angle {angle:.2g}",
            line={"color": LINES[n], "dash": ("solid", "dash", "dot")[n]},
        )
        for n, (angle, column) in enumerate(
            zip(angles.tolist(), torch.stack(ys).T, strict=True)
        )
    ]
    title = "One complex mode is a fading wave; at an angle of 0 it is MEGA's average"
    return figure(*lines, title=title, x="age of the token", y="weight")


# %% [markdown] tags=["heading"]
# mended


# %%
def suspect(x, rate):
    T = len(x)
    ages = torch.arange(T, dtype=x.dtype).float()
    h = torch.exp(-rate * ages[:, None])
    spectrum = torch.fft.rfft(x.float(), dim=0) * torch.fft.rfft(h, dim=0)
    return torch.fft.irfft(spectrum, n=T, dim=0)


def symptoms_of(convolve):
    for name, T, rate, place in (
        ("short, ends in silence", 32, 0.5, 0),
        ("short, loud at the end", 32, 0.5, 31),
        ("long and slow", 600, 0.002, 0),
    ):
        x = torch.zeros(T, 1, dtype=torch.bfloat16)
        x[place] = 1
        y = convolve(x, torch.tensor([rate]))[:, 0]
        right = torch.exp(-rate * (torch.arange(T) - place)) * (
            torch.arange(T) >= place
        )
        worst = int((y - right).abs().argmax())
        print(
            f"{name}: y[{worst}] is {y[worst]:.4f}, should be {right[worst].item():.4f}"
        )


symptoms_of(suspect)

# %% [markdown] tags=["exercise"]
# mended

# %%
when_written(lambda: symptoms_of(mended))

# %% [markdown] tags=["exercise"]
# hyena

# %% [markdown] tags=["question"]
# is_a_gate_enough

# %% [markdown] tags=["exercise"]
# decode

# %% [markdown] tags=["exercise"]
# norm_on

# %% [markdown]
# The picture norms a text whose mean is 300 in chunks of 10, with yours and with a difference of two sums, in float32.


# %%
@when_written
def picture_of_norms():
    x = 300 + torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    zero, ys = torch.tensor(0.0), []
    known = (zero, zero, zero)
    for part in x.split(10):
        y, *known = norm_on(part, *known, 1e-5)
        ys.append(y)
    n = 4 * torch.arange(1, 61)
    right, naive = [], []
    for u in (x.double(), x):
        mean = u.sum(1).cumsum(0) / n
        var = u.square().sum(1).cumsum(0) / n - mean**2
        y = (u - mean[:, None]) / (var + 1e-5).clamp(min=1e-5).sqrt()[:, None]
        (right if u.dtype == torch.float64 else naive).append(y)
    errors = [(y - right[0]).abs().amax(1) for y in (torch.cat(ys), naive[0])]
    lines = [
        go.Scatter(y=e.tolist(), name=name, line_color=COLORS[color])
        for e, name, color in zip(
            errors, ("yours", "two sums"), ("state", "write"), strict=True
        )
    ]
    title = f"Two sums are off by up to {errors[1].max():.2g}, yours by {errors[0].max():.1g}"
    fig = figure(*lines, title=title, x="token", y="error (log scale)")
    return fig.update_yaxes(type="log", dtick=1, exponentformat="power")


# %% [markdown] tags=["exercise"]
# distil

# %% [markdown]
# The picture draws a smooth filter and what your modes make of it.


# %%
@when_written
def picture_of_modes():
    t = torch.arange(64, dtype=torch.float64)
    h = torch.exp(-t / 25) * torch.sin(1.5 * torch.sin(0.11 * t) + 0.3)
    lines = [go.Scatter(y=h.tolist(), name="the filter", line_color=COLORS["softmax"])]
    for color, n in (("write", 2), ("k", 4), ("state", 6)):
        a, c = (torch.complex(*part.unbind(-1)) for part in distil(h, n))
        made = (c * a ** torch.arange(64)[:, None]).sum(-1).real
        look = {"color": COLORS[color], "dash": "dash"}
        lines.append(go.Scatter(y=made.tolist(), name=f"{n} modes", line=look))
    title = "A few modes follow a smooth filter"
    return figure(*lines, title=title, x="age of the token", y="weight")


# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 12` on the command line gives the
# mark.

# %%
progress()
