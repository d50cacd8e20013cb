# %% [markdown]
# # Exercises 17 · Mixture of experts
#
# You make router weights in two orders, give out places, find what a balance loss does to a logit, move a bias, limit a token to groups, undo a dispatch,
# and search keys of three parts. Two numbers ask what dice drop and what a token uses. You mend a router that serves padding. The project merges two experts.
#
# {count} exercises, {points} points, about {minutes} minutes. They go with the chapter `17_mixture_of_experts`, and get harder towards the end.
# Each stands alone: you can skip one and come back.
#
# {how 17.2}
#
# **Shapes.** Tokens come before experts: logits are (N, E), or (B, T, E) where there are several sequences. A token has k slots: `experts` and `weights` are
# (N, k).

# %%
import math

import plotly.graph_objects as go
import torch
import torch.nn.functional as F

from seqlab.course import (
    check,
    hint,
    open_question,
    predict,
    progress,
    show_solution,
    when_written,
)
from seqlab.figures.theme import COLORS, figure

# %% [markdown] tags=["exercise"]
# both_orders

# %% [markdown] tags=["exercise"]
# drop

# %% [markdown]
# The picture takes your `drop`: the share of the weight that is lost, over the number of places.


# %%
@when_written
def picture_of_drop():
    logits = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    weights, experts = logits.softmax(-1).topk(2)
    room = list(range(0, 121, 4))
    left = [drop(weights, experts, 8, n) for n in room]
    total = weights.sum(0)
    lines = [
        go.Scatter(
            x=room,
            y=[1 - (w.sum(0)[j] / total[j]).item() for w in left],
            name=f"{name} choices",
            line={"color": COLORS[color], "dash": dash},
        )
        for j, (name, color, dash) in enumerate(
            [("first", "q", "solid"), ("second", "write", "dash")]
        )
    ]
    fig = figure(
        *lines, title="Second choices pay for the lack of places", x="places per expert"
    )
    fig.add_vline(64, line_dash="dot", annotation_text="the mean load")
    return fig.update_yaxes(title_text="share of the weight dropped", tickformat=".0%")


# %% [markdown] tags=["exercise"]
# balance_gradient

# %% [markdown] tags=["exercise"]
# loss_free

# %% [markdown] tags=["exercise"]
# in_groups

# %% [markdown] tags=["exercise"]
# put_back

# %% [markdown] tags=["exercise"]
# drops_of_dice

# %% [markdown]
# Now the other side of the same dice. A layer has as many experts as a batch has tokens, and each token chooses one by dice. Say first what you expect.


# %%
def picture_of_idle():
    rng = torch.Generator().manual_seed(0)
    sizes = [4, 8, 16, 32, 64, 128, 256, 512]
    idle = []
    for n in sizes:
        chosen = torch.randint(n, (200, n), generator=rng)
        hit = torch.zeros(200, n).scatter(1, chosen, 1.0)
        idle.append(1 - hit.mean().item())
    line = go.Scatter(x=sizes, y=idle, mode="lines+markers", line_color=COLORS["q"])
    fig = figure(
        line,
        title=f"With {sizes[-1]} tokens and experts, {idle[-1]:.0%} of the experts are idle",
        x="tokens in the batch = experts (log scale)",
        y="experts without a token",
    )
    fig.add_hline(math.exp(-1), line_dash="dot", annotation_text="1 / e")
    fig.update_yaxes(tickformat=".0%", rangemode="tozero")
    return fig.update_xaxes(type="log", tickvals=sizes)


predict(
    "17-idle",
    "64 tokens, 64 experts, dice: which share of the experts gets no token?",
    picture_of_idle,
    choices=["nearly none", "about a tenth", "more than a third"],
)

# %% [markdown]
# More than a third: an expert is missed by one token with probability 1 − 1/n, by all n with probability (1 − 1/n)ⁿ, and that goes to 1/e, 37 %. A fair router
# does not mean that everyone works. It takes many tokens for each expert, and that is one reason why mixtures are trained with very large batches.

# %% [markdown] tags=["exercise"]
# active_parameters

# %% [markdown] tags=["heading"]
# real_tokens


# %%
def suspect_router(p, real, places):
    best, expert = p.max(-1)
    asked = F.one_hot(expert, p.shape[-1])
    turn = (asked.cumsum(1) * asked).sum(-1)
    kept = turn <= places
    f, P = asked.float().mean((0, 1)), p.mean((0, 1))
    return best * kept * real, p.shape[-1] * (f * P).sum()


def symptoms_of_padding(route):
    """A text of four tokens, alone; then with four tokens of padding before it."""
    text = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    p = (0.8 * text + 0.1)[None]
    alone = route(p, torch.ones(1, 4, dtype=torch.bool), 2)
    padding = torch.tensor([[0.9, 0.1]]).expand(4, 2)[None]
    real = torch.tensor([[False] * 4 + [True] * 4])
    padded = route(torch.cat([padding, p], dim=1), real, 2)
    for name, (weights, loss) in (("alone", alone), ("padded", padded)):
        shown = [round(w, 2) for w in weights[0, -4:].tolist()]
        print(f"{name:7} weights of the text {shown}, loss {loss:.2f}")


symptoms_of_padding(suspect_router)

# %% [markdown] tags=["exercise"]
# real_tokens

# %%
when_written(lambda: symptoms_of_padding(real_tokens))

# %% [markdown] tags=["exercise"]
# three_parts

# %% [markdown] tags=["question"]
# on_a_laptop

# %% [markdown] tags=["exercise"]
# merge

# %% [markdown]
# The picture draws what your `merge` makes of two experts that differ more and more.


# %%
@when_written
def picture_of_merging():
    rng = torch.Generator().manual_seed(1)
    w_in, w_out = (
        torch.randn(16, 8, generator=rng),
        torch.randn(8, 16, generator=rng) / 4,
    )
    x = torch.randn(500, 8, generator=rng)

    def run(i, o):
        return torch.relu(x @ i.T) @ o.T

    def noisy(w, size):
        return w + size * w.std() * torch.randn(w.shape, generator=rng)

    sizes, errors = [0.02, 0.05, 0.1, 0.2, 0.4, 0.8], {"one expert": [], "merged": []}
    wanted = run(w_in, w_out)
    for size in sizes:
        order = torch.randperm(16, generator=rng)
        a = noisy(w_in, size), noisy(w_out, size)
        b = noisy(w_in, size)[order], noisy(w_out, size)[:, order]
        for name, w in (("one expert", a), ("merged", merge(*a, *b, (1, 1)))):
            off = (run(*w) - wanted).square().mean() / wanted.square().mean()
            errors[name].append(off.item())
    lines = [
        go.Scatter(x=sizes, y=errors[n], name=n, mode="lines+markers", line_dash=dash)
        for n, dash in (("one expert", "dash"), ("merged", "solid"))
    ]
    fig = figure(
        *lines, title="The merged expert is nearer to the truth", x="noise (log scale)"
    )
    fig.update_xaxes(type="log", tickvals=sizes)
    return fig.update_yaxes(type="log", dtick=1, title_text="error (log scale)")


# %% [markdown]
# ## How far you are
#
# `progress()` lists every exercise of the course with your points. `seqlab grade 17` on the command line gives the
# mark.

# %%
progress()
