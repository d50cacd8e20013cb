# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 11 · Griffin
#
# **After this chapter you can**
#
# - say what a small recurrent state keeps of a text, what a window of attention keeps, and test it;
# - derive the RG-LRU from the LRU: two gates, $a^{8r}$, and the square root that keeps the size of the state;
# - say why its gate is computed in log space, and why its square root needs care where $a$ is near 1;
# - build Hawk and Griffin, and decode with a state and a cache that stop growing;
# - compute what RecurrentGemma keeps of a text of any length.
#
# **You need** chapter 02 (gates), chapter 06 (the LRU and scans) and attention with a window (chapter 14 helps).
#
# **Time** 45 minutes to read, a minute to run.
#
# **Covers** RG-LRU · Hawk · Griffin · RecurrentGemma.
#
# ## 1 · Two budgets
#
# A recurrence keeps a state of fixed size; a window keeps the newest W tokens exactly and nothing else. Here is a
# text that needs both. It begins with a title, `T0` to `T7`. Filler follows. Then 16 pairs are written, a key and a
# value in one token, and every key is asked for. At the very end the title is asked for.

# %% tags=["nbval-check-output"]
import torch

from seqlab.tasks import TwoRanges

torch.set_num_threads(1)
task = TwoRanges()
example = task.batch(1, torch.Generator().manual_seed(0))
words = [task.word(token) for token in example.tokens[0].tolist()]
print(" ".join(words))
print(f"{task.length} tokens; a pair is at most {2 * task.n_keys - 1} tokens old")

# %% [markdown]
# The *near* questions ask for one of many facts, less than 32 tokens old. The *far* one asks for a single fact that
# is 65 tokens old. Three models of two layers of width 32 learn it, each three times (seeds 0, 1, 2). All take 160
# steps of 12 texts at a learning rate of 0.01, the only one tried for this comparison:
#
# - **recurrence**: two RG-LRU layers, which this chapter derives;
# - **window**: two layers of attention that see the newest 32 tokens, with one head;
# - **both**: a window, then an RG-LRU.
#
# Two windows on top of each other reach back 2 · 31 = 62 tokens, so the title is out of their reach.
#
# **Before you read on**, commit to an answer:

# %% tags=["measured"]
from functools import partial

from seqlab.course import predict
from seqlab.figures import griffin as figures
from seqlab.mixers import RGLRU, Attention
from seqlab.model import LanguageModel
from seqlab.train import accuracy, train

window = partial(Attention, n_heads=1, n_kv_heads=1, window=32, d_rotary=8)
layouts = {
    "recurrence": [RGLRU, RGLRU],
    "window": [window, window],
    "both": [window, RGLRU],
}


def trained(mixers, seed):
    torch.manual_seed(seed)
    model = LanguageModel(task.vocab, 32, mixers, ffn=None)
    train(model, task, steps=160, batch_size=12, lr=0.01, seed=seed, show=False)
    return model


models = {name: [trained(m, s) for s in range(3)] for name, m in layouts.items()}
test = task.batch(200, torch.Generator().manual_seed(10_000))
near, far = test.only(far=False), test.only(far=True)
found = {
    name: {
        "16 pairs, near": [accuracy(m, near) for m in seeds],
        "the title, far": [accuracy(m, far) for m in seeds],
    }
    for name, seeds in models.items()
}
for name, shares in found.items():
    print(name, {k: [f"{x:.0%}" for x in xs] for k, xs in shares.items()})
far_shares = found["recurrence"]["the title, far"]
low, high = min(far_shares), max(far_shares)
finding = (
    f"The window finds the pairs; recurrence alone {low:.0%} to {high:.0%} of titles"
)
predict(
    "11-budgets",
    "Which model answers both kinds of question?",
    lambda: figures.by_range(found, title=finding, chance=1 / 8),
    choices=["recurrence alone", "window alone", "both together", "none"],
)

# %% [markdown]
# *What to see.* Each mark is a seed. The window answers the near questions and guesses about the title. The
# recurrence is only a little better than guessing about the pairs. It has learned the title in most seeds; one was
# still far from done when training stopped. The model with one layer of each answers both kinds, in all three seeds.
# The usual wrong guess is that the recurrence could do all of it: its state of 64 numbers has room for 16 values of 3
# bits. But it would have to learn to use that room, and in so few steps it did not. So this shows what these layers
# *learn quickly*, at one size and one learning rate. It does not show what they can hold.
#
# Here the window comes first. Griffin begins with recurrent layers. We tried that order too, off this page, with the
# same three seeds: in as many steps none of them learned the pairs. An order that suits two layers and 160 steps need
# not suit 26 layers.
#
# ## 2 · From the LRU to the RG-LRU
#
# The **LRU** of chapter 06 is $h_t = λ h_{t-1} + \sqrt{1 - |λ|^2}\, B x_t$, with a constant, complex λ. Each channel
# forgets at one speed, whatever the token. Griffin's **RG-LRU**, the real-gated linear recurrent unit, changes three
# things. λ becomes a real number $a$. The matrix $B$ goes: channel d of x writes into channel d of h. And two gates
# look at the token:
#
# $$r_t = σ(W_r x_t + b_r) \qquad i_t = σ(W_i x_t + b_i)$$
#
# The **input gate** $i_t$ scales what is written. The **recurrence gate** $r_t$ sets the speed of forgetting. Let
# $e = \exp(-\mathrm{softplus}(Λ))$ be a channel's own decay, learned, between 0 and 1. Its decay at token t is
#
# $$a_t = e^{\,8\, r_t} \qquad\text{so}\qquad \log a_t = -8\, r_t\, \mathrm{softplus}(Λ)$$
#
# With $r = 0$ nothing is forgotten; with $r = 1$ the channel forgets eight times as fast as $e$ says. Half of the
# memory is left after $\log 2 / (8\, r\, \mathrm{softplus}(Λ))$ tokens, so the gate divides a half-life. The authors'
# code starts $e^2$ uniformly between 0.9² and 0.999². (The paper's text gives a range like this to $a$ at $r = 1$.)

# %%
import math

from seqlab.figures.state_space import curves
from seqlab.widgets import explore


def half_lives(e=0.99, c=8):
    r = torch.linspace(0.02, 1, 50)
    lives = math.log(0.5) / (c * r * math.log(e))
    return curves(
        {f"e = {e:g}": (r.tolist(), lives)},
        title=f"From {lives[-1]:.3g} tokens at r = 1 to {lives[0]:.3g} at r = 0.02",
        x="recurrence gate r",
        y="half-life in tokens",
        log="y",
    )


explore(half_lives, e=(0.9, 0.999, 0.001), c=(1, 16))

# %% [markdown]
# *What to see.* Drag e and c. The curve only moves up and down: every gate has the same *ratio* between its longest
# and its shortest memory. A larger c makes a fully open gate forget faster; the longest memories come from r near 0.
#
# ## 3 · The square root keeps the size
#
# What is the factor in front of the write for? Suppose inputs are independent with variance 1. Let v be the variance
# of h, and multiply the write by f. Then v settles where $v = a^2 v + f^2$, so $v = f^2 / (1 - a^2)$. For $v = 1$ we
# need $f = \sqrt{1 - a^2}$. The update is complete:
#
# $$h_t = a_t\, h_{t-1} + \sqrt{1 - a_t^2}\; (i_t \odot x_t)$$
#
# The first token of a text is written whole, with the factor 1: there is no older state to add to.

# %%
figures.sizes([0.5, 0.8, 0.9, 0.97, 0.99], start=2)

# %% [markdown]
# *What to see.* Move the slider to slow decays. Without a factor h grows; with $1 - a$ it shrinks, because that
# factor keeps a *mean* and means of noise are small. With the root it keeps size 1 at every speed. For inputs that
# repeat themselves the root is too large: a constant input of 1 ends at $\sqrt{1 - a^2} / (1 - a)$.
#
# Now the two numerical traps, both near $a = 1$. First, $1 - a^2$ subtracts nearly equal numbers. With $\log a$ in
# hand there is a better way, $1 - a^2 = -\mathrm{expm1}(2 \log a)$. That is the reason for log space. Second, the
# slope of $\sqrt u$ is $1 / (2 \sqrt u)$, which is infinite at $u = 0$.

# %% tags=["nbval-check-output"]
log_a = torch.tensor([-1e-2, -1e-5, -1e-9, 0.0], requires_grad=True)
naive = (1 - torch.exp(log_a) ** 2).sqrt()
(naive_slope,) = torch.autograd.grad(naive.sum(), log_a)
careful = (-torch.expm1(2 * log_a)).sqrt()
(slope,) = torch.autograd.grad(careful.sum(), log_a)
print("  log a   1 - exp()²    slope    -expm1(2 log a)   slope")
for row in zip(log_a, naive, naive_slope, careful, slope, strict=True):
    print(
        "{:7.0e} {:12.4g} {:8.3g} {:15.4g} {:9.3g}".format(
            *(x.item() + 0.0 for x in row)
        )
    )

# %% [markdown]
# The careful root is right in every row, but its slope is still infinite at the end. As in the authors' code,
# `seqlab` keeps the value and holds the slope of the root at 1,000. No epsilon changes the forward pass.

# %% tags=["measured"]
from seqlab.mixers.rglru import bounded_sqrt

u = torch.logspace(-10, 0, 60, dtype=torch.float64).requires_grad_()
slopes = {}
for name, root in (("√u", torch.sqrt), ("seqlab's root", bounded_sqrt)):
    slopes[name] = u.tolist(), torch.autograd.grad(root(u).sum(), u)[0]
curves(
    slopes,
    title="The slope of the root is held at 1,000",
    x="u = 1 - a²",
    y="slope",
    log="xy",
)

# %% [markdown]
# *What to see.* The two slopes agree where a is below about $1 - 10^{-7}$. Left of that the true slope goes on
# without end.
#
# ## 4 · Hawk, and its scan
#
# Griffin's recurrent block has two branches. With $u$ for its input, it returns
#
# $$W_o\,(\mathrm{gelu}(W_y u) \odot \mathrm{RGLRU}(\mathrm{conv}(W_x u)))$$
#
# The convolution is short, over four tokens. The gates' matrices are block-diagonal. Alternating this block with an
# MLP gives the model **Hawk**, without any attention. Here is its recurrence as a loop:


# %%
import torch.nn.functional as F


def our_rglru(layer, x):
    """The layer on x (T, D): only the weights are `layer`'s."""
    gate = F.gelu(layer.y(x), approximate="tanh")
    u = layer.conv(layer.x(x)[None])[0][0]
    blocks = u.view(len(u), *layer.r_bias.shape)  # (T, heads, D / heads)
    r, i = (
        (torch.einsum("thi, hij -> thj", blocks, W) + b).sigmoid().flatten(1)
        for W, b in ((layer.r_weight, layer.r_bias), (layer.i_weight, layer.i_bias))
    )
    log_a = -8 * r * F.softplus(layer.Lambda)
    factor = (-torch.expm1(2 * log_a)).sqrt()
    h, hs = (i * u)[0], []
    for t in range(len(u)):
        h = log_a[t].exp() * h + factor[t] * i[t] * u[t] if t else h
        hs.append(h)
    return layer.out(gate * torch.stack(hs))


# %% tags=["nbval-check-output"]
from seqlab.core.scan import hillis_steele, sequential
from seqlab.course import holds

rng = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@holds
def our_loop_is_seqlabs_layer_and_its_gradients():
    layer, x = RGLRU(12).double(), randn(9, 12).requires_grad_()
    leaves, answers = (x, *layer.parameters()), []
    for y in (our_rglru(layer, x), layer(x[None])[0][0]):
        answers.append((y, *torch.autograd.grad(y.sin().sum(), leaves)))
    same(*answers)


@holds
def the_scan_may_join_steps_in_any_order():
    a, b = randn(2, 33, 5).sigmoid(), randn(2, 33, 5)
    same(sequential(a, b), hillis_steele(a, b))


@holds
def a_rolling_cache_gives_the_window():
    layer, x = window(32).double(), randn(1, 80, 32)
    whole, (ys, cache) = layer(x)[0], ([], None)
    for t in range(80):
        y, cache = layer(x[:, t : t + 1], cache)
        ys.append(y)
    same(torch.cat(ys, 1), whole)
    assert cache is not None and cache.k.shape[1] == 32


# %% [markdown]
# The gates do not see $h$, so the recurrence is a linear scan (chapter 06). The third theorem is about the window:
# keys and values older than W tokens can be thrown away, and nothing changes.
#
# ## 5 · Griffin: two recurrences to one window
#
# **Griffin** replaces every third recurrent block by local attention, in which all heads share one key and one value
# head. It keeps two budgets: a state for what is old, which is compressed, and a cache for what is new, which is
# exact. In our trained model we can take each of them away. Run the text up to the first question; empty one memory;
# go on.


# %% tags=["measured"]
def emptied(states, what):
    cache, state = states
    if what == "window":
        cache = cache._replace(k=cache.k[:, :0], v=cache.v[:, :0])
    if what == "state":
        state = state._replace(S=torch.zeros_like(state.S))
    return [cache, state]


def right_without(model, what):
    """Shares of near and far questions right."""
    start = task.length - task.n_keys - 1
    with torch.no_grad():
        _, states = model(test.tokens[:, :start])
        logits, _ = model(test.tokens[:, start:], emptied(states, what))
    right = logits.argmax(-1) == test.targets[:, start:]
    return right[:, :-1].float().mean().item(), right[:, -1].float().mean().item()


taken = {}
for what in ("nothing", "state", "window"):
    pairs = [right_without(model, what) for model in models["both"]]
    kinds = ("16 pairs, near", "the title, far")
    taken[f"without the {what}" if what != "nothing" else "whole"] = dict(
        zip(kinds, zip(*pairs, strict=True), strict=True)
    )
figures.by_range(
    taken,
    title="Without its window it loses the pairs, without its state the title",
    chance=1 / 8,
)

# %% [markdown]
# *What to see.* Each mark is one of the three seeds. Emptying the window takes the near answers away, emptying the
# state the far one. The title can only be in the state, because the window no longer reaches it. The pairs could have
# been in either, and training put them into the window.
#
# And the gate? Here is $a_t$ of the trained RG-LRU at every token of one text:

# %% tags=["measured"]
from seqlab.microscope import observe

model = models["both"][0]
with torch.no_grad():
    stream, _ = model.blocks[0](model.embedding(example.tokens))
    heard = model.blocks[1].mixer_norm(stream)
    gates = model.blocks[1].mixer.project(heard)["log_a"].exp()[0, :, :, 0]
slow = (gates[1:].log().sum(0) > math.log(0.5)).sum().item()
figures.gates_over(
    gates,
    words,
    title=f"{slow} of {gates.shape[1]} channels still hold half of the first token",
)

# %% [markdown]
# *What to see.* Rows are channels, the slowest on top. A dark row is a channel that hardly forgets; light columns are
# tokens at which the gates open. The title counts the channels whose decays over the whole text multiply to at least
# ½. It is one seed's picture.

# %%
from seqlab import figures as course_figures

traces = {
    "window": observe(
        model.blocks[0].mixer,
        model.blocks[0].mixer_norm(model.embedding(example.tokens)).detach()[:, 32:60],
        words[32:60],
    ),
    "RG-LRU, channel 0": observe(model.blocks[1].mixer, heard[:, 32:60], words[32:60]),
}


def memory(layer="window", t=20):
    return course_figures.microscope(traces[layer], t)


explore(memory, layer=list(traces), t=(0, 27))

# %% [markdown]
# *What to see.* Choose a layer, and move through the tokens. The window's cache gains a row with each token. The
# RG-LRU's channel is one number: the microscope shows how much of each token is left in it.
#
# ## 6 · In the wild
#
# **RecurrentGemma** is Griffin with an embedding scaled by √D and capped logits, at 2B and 9B parameters. The paper's
# Hawk and Griffin exist at 7B. All sizes are the zoo's:

# %% tags=["nbval-check-output"]
from seqlab.zoo.memory import kept

lengths = [2**n for n in (8, 10, 11, 14, 17, 20)]
shown = {
    "Hawk 7B": ("Hawk", "7B"),
    "Griffin 7B": ("Griffin", "7B"),
    "RecurrentGemma 2B": ("RecurrentGemma", "2B"),
    "RecurrentGemma 9B": ("RecurrentGemma", "9B"),
    "Llama 3.1 8B": ("Transformer 2026", "Llama 3.1 8B"),
}
print(f"{'MiB kept of':18}" + "".join(f"{n:12,}" for n in lengths))
bytes_kept = {}
for name, (family, size) in shown.items():
    held = [kept(family, size).bytes(n) / 2**20 for n in lengths]
    bytes_kept[name] = lengths, torch.tensor(held)
    print(f"{name:18}" + "".join(f"{x:12,.2f}" for x in held))

# %%
curves(
    bytes_kept,
    title="A cache grows until its window is full; a state does not grow",
    x="tokens read",
    y="MiB kept",
    log="xy",
    markers=True,
)

# %% [markdown]
# *What to see.* Griffin's curve bends where its window of 1,024 is full, RecurrentGemma's at 2,048. Hawk's is flat
# from the first token. At long texts most of what a Griffin keeps is in its windows. States are counted in float32,
# caches in bfloat16.
#
# ### Fact check
#
# **"Griffin has a fixed-size memory."** From the end of the first window on. Until then its cache grows like any
# other.
#
# **"Hawk is Griffin with windows of 0."** Hawk *replaces* the attention by more recurrence; the exercises have an
# open question about this.
#
# **"The decay starts between 0.9 and 0.999."** In the authors' code that is $e$; at $r = 1$ the decay is $e^8$.
#
# **"A window makes recall exact."** Only inside it. A fact that leaves every window has to be in a state by then.
#
# ## 7 · Practise
#
# In a terminal, `seqlab start 11` puts your own copy of the exercises into `work/`.

# %% [markdown] tags=["exercises"]
# The table of exercises is made from their files.

# %% [markdown]
# The notebook is [exercises/11_griffin.ipynb](../exercises/11_griffin.ipynb); work on the copy in `work/`.
#
# ## Recap, in five lines
#
# 1. RG-LRU: $h_t = a_t h_{t-1} + \sqrt{1 - a_t^2}\,(i_t x_t)$ with $\log a_t = -8\, r_t\, \mathrm{softplus}(Λ)$.
# 2. The square root keeps the size of h for independent inputs; near a = 1 it needs `expm1` and a bounded slope.
# 3. Its gates do not see h, so it is a scan. Hawk has no attention beside it.
# 4. Griffin puts one window beside two recurrences; its memory stops growing once the window is full.
# 5. On our small task, in 160 steps, the window learned the near facts, the recurrence the far one in most seeds, and
#    one layer of each both kinds.
#
# Next, chapter 12.
#
# ## References
#
# - S. De et al. [*Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient Language
#   Models.*](https://arxiv.org/abs/2402.19427) 2024.
# - A. Botev et al. [*RecurrentGemma: Moving Past Transformers for Efficient Open Language
#   Models.*](https://arxiv.org/abs/2404.07839) 2024.
# - A. Orvieto et al. [*Resurrecting Recurrent Neural Networks for Long Sequences.*](https://arxiv.org/abs/2303.06349)
#   2023.
# - N. Shazeer. [*Fast Transformer Decoding: One Write-Head is All You Need.*](https://arxiv.org/abs/1911.02150) 2019.
