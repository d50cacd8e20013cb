# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 10 · xLSTM
#
# **After this chapter you can**
#
# - say what an exponential gate can do that a gate between 0 and 1 cannot;
# - write the stabiliser that keeps such a gate in range, and prove that it changes nothing;
# - build the sLSTM, and say what its memory mixing buys and what it costs;
# - build the mLSTM as linear attention with two gates and a normaliser, in parallel and in chunks;
# - say which of the two a 7B model uses, and what it keeps of a text.
#
# **You need** chapter 02 (the LSTM), chapter 05 (gates) and chapter 07 (chunks). The online softmax of chapter 14
# helps.
#
# **Time** 60 minutes to read, a minute to run.
#
# **Covers** sLSTM · mLSTM · the mLSTM block of 2024 · xLSTM 7B.
#
# The LSTM of chapter 02 has a cell that is a sum, $c_t = f_t\, c_{t-1} + i_t\, z_t$. Its gates $f$ and $i$ are
# sigmoids, so they lie between 0 and 1. In 2024 its authors came back with **xLSTM**: the input gate becomes an
# *exponential*, $i_t = e^{\tilde\imath_t}$, and may be as large as it likes. This chapter asks what that is good for,
# and what it breaks.
#
# ## 1 · A failure: an exponential gate overflows
#
# Write $\tilde\imath_t$ and $\tilde f_t$ for the two numbers that a token sends to its gates. With large weights the
# cell $c$ has no fixed scale any more, so xLSTM divides by the sum of all weights, the **normaliser** $n$:
#
# $$c_t = f_t\, c_{t-1} + e^{\tilde\imath_t} z_t \qquad n_t = f_t\, n_{t-1} + e^{\tilde\imath_t} \qquad
#   h_t = c_t / n_t$$
#
# $h$ is a weighted mean of all values $z$ so far. Ten lines:


# %%
import torch

torch.set_num_threads(1)


def cell(z, i, log_f):
    """Every h_t = c_t / n_t. z, i and log_f are (T, D), log_f the logarithm of f."""
    c = n = torch.zeros_like(z[0])
    hs = []
    for z_t, i_t, f_t in zip(z, i.exp(), log_f.exp(), strict=True):
        c = f_t * c + i_t * z_t
        n = f_t * n + i_t
        hs.append(c / n)
    return torch.stack(hs)


# %% [markdown]
# The paper allows two forget gates, $f = \sigma(\tilde f)$ and $f = e^{\tilde f}$. Give each of 200 cells random gates,
# $\tilde\imath$ with a standard deviation of 1, 4 or 16, and let $\tilde f$ be 3, where the authors' code starts its
# lowest gate. How many tokens does a cell read before $h$ is no longer a number?

# %% tags=["nbval-check-output"]
T = 1000
noise = torch.randn(2, T, 200, generator=torch.Generator().manual_seed(0))
f_logit = torch.full((T, 200), 3.0)


def tokens_read(dtype, size, log_f):
    """The median over the cells; T if nothing breaks."""
    z, i = noise[0].to(dtype), (size * noise[1]).to(dtype)
    broken = ~cell(z, i, log_f.to(dtype)).isfinite()
    first = torch.where(broken.any(0), broken.int().argmax(0), T)
    return int(first.median())


print("forget gate   size of ĩ   float16   float32")
for name, log_f in (("e^f", f_logit), ("σ(f)", f_logit.sigmoid().log())):
    for size in (1, 4, 16):
        read = [tokens_read(d, size, log_f) for d in (torch.float16, torch.float32)]
        print(f"{name:11}{size:10}{read[0]:12}{read[1]:10}")

# %% [markdown]
# With two exponentials a cell in float16 lasts a handful of tokens, in float32 about thirty: $n$ grows like $e^{3t}$.
# With a sigmoid as forget gate it is the largest input gate that counts. $e^{11.1}$ is too large for float16,
# $e^{88.8}$ for float32. A model with such gates could not be trained. But look at what breaks: only $c$ and $n$. The
# answer $h$ is a mean of values near 1.
#
# ## 2 · The stabiliser changes nothing
#
# If $c$ and $n$ are both divided by the same number, $h$ stays as it is. So keep them divided by $e^{m_t}$, with an
# $m_t$ that follows the larger of the two exponents in play, that of the old memory and that of the new token:
#
# $$m_t = \max(\log f_t + m_{t-1},\; \tilde\imath_t)$$
#
# Insert $c_t = e^{m_t} c'_t$ into the recurrence and divide by $e^{m_t}$. Both gates become harmless:
#
# $$c'_t = e^{\log f_t + m_{t-1} - m_t}\, c'_{t-1} + e^{\tilde\imath_t - m_t}\, z_t$$
#
# No exponent is above 0, and one of the two is exactly 0. So $n'$ is at least 1 and at most $t$.


# %%
def stable_cell(z, i, log_f):
    c = n = torch.zeros_like(z[0])
    m = torch.full_like(z[0], -torch.inf)  # nothing is written yet
    hs = []
    for z_t, i_t, f_t in zip(z, i, log_f, strict=True):
        old, m = f_t + m, torch.maximum(f_t + m, i_t)
        keep, write = (old - m).exp(), (i_t - m).exp()
        c = keep * c + write * z_t
        n = keep * n + write
        hs.append(c / n)
    return torch.stack(hs)


# %% tags=["nbval-check-output"]
from seqlab.course import holds

rng = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def with_gradients(run, *inputs):
    leaves = [x.detach().requires_grad_() for x in inputs]
    y = run(*leaves)
    return y, *torch.autograd.grad(y.sin().sum(), leaves)


@holds
def the_stabiliser_changes_neither_values_nor_gradients():
    z, i, log_f = randn(50, 6), 3 * randn(50, 6), -randn(50, 6).exp()
    ours = with_gradients(stable_cell, z, i, log_f)
    same(ours, with_gradients(cell, z, i, log_f))


@holds
def in_float16_nothing_overflows():
    h = stable_cell(noise[0].half(), (16 * noise[1]).half(), f_logit.half())
    assert h.isfinite().all()


# %% [markdown]
# The gradients agree although $m$ was computed with gradients here. It need not be: $h$ does not depend on $m$, so its
# derivative by $m$ is 0, and `seqlab` detaches it.

# %%
from seqlab.figures import xlstm as figures

gates = 0.05 * f_logit[:60, 0] - 0.2  # log f = -0.05: a half-life of 14 tokens
figures.sizes(noise[1, :60, 0], gates, [1, 2, 4, 8, 16, 32, 48], start=4)

# %% [markdown]
# *What to see.* Move the slider: the solid line is what a cell without the stabiliser has to hold. Each time a very
# large gate comes, the line jumps, and then it falls by $\log f$ a token. From a size of about 8 on it leaves float16,
# at 48 it leaves float32. The dashed line is what is kept with the stabiliser: it stays near 0 for every size.
#
# You have met this trick. Take $f = 1$. Then the weight of token $s$ is $e^{\tilde\imath_s}$ over the sum of all,
# which is a **softmax over the past**, and $m$ is the running maximum of the online softmax:

# %% tags=["nbval-check-output"]


@holds
def without_forgetting_the_cell_is_a_softmax_over_the_past():
    z, i = randn(30, 6), 5 * randn(30, 6)
    shares = i.softmax(0)
    same(stable_cell(z, i, torch.zeros_like(i))[-1], (shares * z).sum(0))


# %% [markdown]
# So a cell of the sLSTM is attention with a single query, fixed for good, that asks each token: how loud are you? The
# forget gate adds that loudness fades with age. With gates below 1 the weight of a token is at most 1 and the past must
# be *forgotten* for the present to count. With an exponential it can be outweighed and still be there.

# %%
from seqlab.widgets import explore

explore(
    lambda loudness=3.0, forget=0.9: figures.loud_at(loudness, forget, "abcd!efghij"),
    loudness=(0.0, 6.0, 0.5),
    forget=(0.5, 1.0, 0.05),
)

# %% [markdown]
# *What to see.* Each row is one read, each column a token. All tokens have $\tilde\imath = 0$, but `!` is louder.
# Turn its loudness up: below it, its column takes over every read. Turn the forget gate down: its column fades, the
# more quickly the smaller $f$ is. At loudness 0 this is a moving average.
#
# ## 3 · A decision that can be revised
#
# When does one need that? When a later token can be *better* than all before. Each token of this task is a letter
# with a bid, and the letter of the highest bid so far is asked for, at every token. High bids are rare: each is half
# as likely as the one below.

# %% tags=["nbval-check-output"]
from seqlab.tasks import Largest

task = Largest(n_bids=6, n_letters=4, length=32)
example = task.batch(1, torch.Generator().manual_seed(3))
print(" ".join(task.word(n) for n in example.tokens[0, :16].tolist()))
print(" ".join("abcd"[n] + " " for n in example.targets[0, :16].tolist()))

# %% [markdown]
# Four layers of width 32, each trained three times (seeds 0, 1, 2): 250 steps of 16 texts, learning rate 0.01.
#
# - **LSTM**: sigmoid gates that see the state. It can compare a bid with what it holds.
# - **gated retention**: one sigmoid gate a head, which sees the token alone.
# - **sLSTM** and **mLSTM**: this chapter's layers. The sLSTM starts without its convolution, so only the memory
#   differs.

# %%
from functools import partial

from seqlab.mixers import LSTM, MLSTM, GatedRetention, sLSTM
from seqlab.model import LanguageModel
from seqlab.train import accuracy, train

SEEDS = (0, 1, 2)


def trained(mixer, task, seed, steps=250):
    torch.manual_seed(seed)
    model = LanguageModel(task.vocab, 32, [mixer], ffn=None)
    label = type(task).__name__.lower()
    train(model, task, steps=steps, batch_size=16, lr=0.01, seed=seed, label=label)
    return model


layers = {
    "LSTM": LSTM,
    "gated retention": partial(GatedRetention, tau=1.0),
    "sLSTM": partial(sLSTM, d_conv=1),
    "mLSTM": MLSTM,
}
bidders = {name: [trained(m, task, s) for s in SEEDS] for name, m in layers.items()}

# %% tags=["measured"]
from seqlab.figures.retention import accuracy as accuracy_figure

LENGTHS = [32, 64, 128, 256]


def right_at(models, task, lengths):
    """name -> (lengths, the share of right answers of each seed)."""
    draw = torch.Generator().manual_seed(10_000)
    batches = [task(length).batch(128, draw) for length in lengths]
    return {
        name: (lengths, [[accuracy(m, b) for b in batches] for m in seeds])
        for name, seeds in models.items()
    }


accuracy_figure(
    right_at(bidders, lambda n: Largest(6, 4, n), LENGTHS),
    title="A sigmoid gate that sees only the token revises least well",
    x="tokens in the text (log scale)",
    chance=1 / 4,
    log=True,
    marks={"length in training": task.length},
)

# %% [markdown]
# *What to see.* Gated retention loses most as texts get longer. To keep the letter of a high bid it has to shut its
# gate against lower ones, but its gate cannot know which bid it holds. The mLSTM, equally blind to its state, does
# better: it need not know, a higher bid simply weighs more. And **the LSTM does as well as the sLSTM**. That is not
# what one reads about xLSTM, and a narrow statement: one task, one width, one learning rate. An LSTM's gates see the
# state, so it can compare; what the exponential gives is the same ability to layers that do not look at their state.
#
# What has the mLSTM learned? Its $\tilde\imath$ depends on the token alone, so we can ask all 24 tokens:

# %% tags=["measured"]
from seqlab.figures.state_space import curves

bids, heads = list(range(6)), {}
for seed, model in enumerate(bidders["mLSTM"]):
    block = model.blocks[0]
    with torch.no_grad():
        heard = block.mixer_norm(model.embedding.weight)  # a row for each token
        loudness = block.mixer.i(heard).view(6, 4, -1).mean(1)  # (bids, heads)
    rise = loudness[5] - loudness[0]
    heads[f"seed {seed}"] = (bids, (loudness - loudness[0])[:, rise.argmax()])
top = min(float(ys[-1]) for _, ys in heads.values())
curves(
    heads,
    title=f"From bid 0 to bid 5, a token's weight rises by e^{top:.0f} or more",
    x="bid",
    y="ĩ, above that of bid 0",
    markers=True,
)

# %% [markdown]
# *What to see.* Of each seed's heads the one that rises most. The logarithm of its weight grows with the bid: training
# has found the ladder that the task needs, by a factor at each step. No sigmoid has room for such a ladder.
#
# ## 4 · sLSTM: a memory that mixes
#
# The **sLSTM** is this cell with a gate on its output, and with one more difference from everything since chapter 03:
# its gates see the last output $h_{t-1}$, through one matrix $R$ per head and gate.
#
# $$\tilde\imath_t, \tilde f_t, \tilde z_t, \tilde o_t = W x_t + R\, h_{t-1} + b \qquad
#   h_t = \sigma(\tilde o_t)\, \frac{c_t}{n_t} \qquad z_t = \tanh \tilde z_t$$
#
# The paper calls this **memory mixing**. As in the authors' code, $\tilde\imath$ and $\tilde f$ read a short
# convolution of $x$, and each head's output is normalised.

# %% tags=["nbval-check-output"]
import torch.nn.functional as F


def our_slstm(layer, x):
    """The layer on one text x (T, D): only the weights are `layer`'s."""
    H = layer.n_heads
    soft = layer.conv(x[None])[0][0].view(len(x), H, -1)  # (T, H, K)
    x = x.view(len(x), H, -1)
    h = c = n = torch.zeros_like(x[0])
    m = torch.full_like(h, -torch.inf)
    ys = []
    for u, v in zip(soft, x, strict=True):
        seen = torch.stack(
            [u, u, v, v]
        )  # i and f see the convolution, z and o the token
        gates = torch.einsum("ghij, ghj -> ghi", layer.W, seen)
        i, f, z, o = gates + torch.einsum("ghij, hj -> ghi", layer.R, h) + layer.b
        old = F.logsigmoid(f) + m
        m = torch.maximum(old, i)
        c = (old - m).exp() * c + (i - m).exp() * z.tanh()
        n = (old - m).exp() * n + (i - m).exp()
        h = o.sigmoid() * c / n
        ys.append(h.flatten())
    return F.group_norm(torch.stack(ys), H, layer.norm)


@holds
def our_layer_is_seqlabs_slstm():
    layer, x = sLSTM(12, n_heads=3).double(), randn(9, 12)
    layer.R.data = randn(*layer.R.shape)
    leaves = x, layer.W, layer.R, layer.b
    answers = []
    for run in (our_slstm, lambda layer, x: layer(x[None])[0][0]):
        y = run(layer, x.requires_grad_())
        answers.append((y, *torch.autograd.grad(y.sin().sum(), leaves)))
    same(*answers)


# %% [markdown]
# What does mixing buy? **Parity**: bits come one by one, and after each the layer says whether the number of ones so
# far is odd. Three layers learn it from texts of 16 bits: the sLSTM, the same with $R = 0$ for good, and the mLSTM,
# whose state is much larger. **Before you read on**, commit to an answer:


# %% tags=["measured"]
from seqlab.course import predict
from seqlab.tasks import Parity


def without_mixing(d_model):
    layer = sLSTM(d_model, d_conv=1)
    layer.R.requires_grad_(False)  # it starts at 0
    return layer


counting = {
    "sLSTM": partial(sLSTM, d_conv=1),
    "sLSTM, R = 0": without_mixing,
    "mLSTM": MLSTM,
}
counters = {
    name: [trained(m, Parity(16), s, steps=200) for s in SEEDS]
    for name, m in counting.items()
}
counted = right_at(counters, Parity, [16, 64, 256])
predict(
    "10-parity",
    "Which of them is right about 256 bits?",
    lambda: accuracy_figure(
        counted,
        title="Only the layer whose gates see its state can count",
        x="bits in the text (log scale)",
        chance=1 / 2,
        log=True,
        marks={"length in training": 16},
    ),
    choices=["all three", "the sLSTM alone", "the mLSTM alone, its state is larger"],
)

# %% [markdown]
# *What to see.* The sLSTM is right everywhere, the two others guess beyond a few bits. A larger state does not help.
# Without $R$ the weights of a cell depend on the tokens alone and all of them are positive; a 1 would have to turn
# what is there into its opposite, and a mean with positive weights cannot do that. With $R$ the *same* token can do
# different things in different states. (Chapter 07's Mamba-3 and chapter 08's delta rule turn their states in other
# ways.)
#
# The price is the one of chapter 02. Step $t$ needs $h_{t-1}$, so the steps cannot be merged, and a text of $T$ tokens
# takes $T$ rounds:

# %% tags=["measured"]
from seqlab.train import best_seconds

torch.manual_seed(0)
x = torch.randn(4, 512, 32)
for name, make in (("sLSTM", sLSTM), ("mLSTM", MLSTM)):
    layer = make(32)
    seconds = best_seconds(lambda layer=layer: layer(x), rounds=2)
    print(f"{name}: {1000 * seconds:4.0f} ms for the forward pass of 4 × 512 tokens")

# %% [markdown]
# ## 5 · mLSTM: linear attention with two gates
#
# The **mLSTM** takes the other way. It drops $R$, and makes the cell a table: each value is written under a key, and
# the normaliser becomes a sum of keys.
#
# $$S_t = f_t\, S_{t-1} + e^{\tilde\imath_t} v_t k_t^\top \qquad n_t = f_t\, n_{t-1} + e^{\tilde\imath_t} k_t \qquad
#   y_t = \frac{S_t q_t}{\max(|n_t \cdot q_t|,\, 1)}$$
#
# This is chapter 05's gated retention with a second gate, on the write, and with chapter 03's normaliser. The maximum
# with 1 is new: $n \cdot q$ may have any sign, and be near 0. It is the only place where the scale of the memory
# matters, so a stabilised memory has to compare with $e^{-m_t}$ in place of 1.
#
# Nothing here depends on the state, so all tokens can be computed at once. Let $F_t = \log f_1 + \dots + \log f_t$.
# The logarithm of the weight of token $j$ in the read of token $i$ is $D_{ij} = F_i - F_j + \tilde\imath_j$, and
# $m_i$ is its largest value in row $i$.


# %%
def parallel(q, k, v, i, log_f):
    """q, k (T, K), v (T, V), i and log_f (T,): every y."""
    total = log_f.cumsum(0)
    D = total[:, None] - total + i
    D = D.masked_fill(torch.ones_like(D).triu(1) == 1, -torch.inf)
    m = D.amax(1, keepdim=True).detach()
    weights = (q @ k.mT) * (D - m).exp()
    return weights @ v / torch.maximum(weights.sum(1, keepdim=True).abs(), (-m).exp())


# %% tags=["nbval-check-output"]
from seqlab.core.exponential_gates import divide, stabilise
from seqlab.core.recurrence import chunkwise, recurrent


def by_seqlab(q, k, v, i, log_f, form=recurrent, **how):
    """Stabilised gates, then the course's recurrence; n is a last row of S."""
    log_f, i = log_f[None, :, None], i[None, :, None]
    log_a, log_i, m = stabilise(log_f, i)
    k = k * log_i[0].exp()
    v = F.pad(v, (0, 1), value=1.0)
    q, k, v = (u[None, :, None] for u in (q, k, v))
    y = form(q, k, v, log_a=log_a[..., None], **how)[0]
    return divide(y, m)[0, :, 0]


@holds
def the_parallel_form_is_seqlabs_recurrence():
    inputs = randn(40, 5), randn(40, 5), randn(40, 3), 4 * randn(40), -randn(40).exp()
    same(with_gradients(parallel, *inputs), with_gradients(by_seqlab, *inputs))


@holds
def so_is_the_chunked_form():
    inputs = randn(40, 5), randn(40, 5), randn(40, 3), 4 * randn(40), -randn(40).exp()
    chunked = partial(by_seqlab, form=chunkwise, chunk_size=7)
    same(with_gradients(chunked, *inputs), with_gradients(parallel, *inputs))


# %% [markdown]
# The second theorem is the useful one. Unroll $m_t = \max(\log f_t + m_{t-1}, \tilde\imath_t)$ and it is $F_t +
# \max_{s \le t}(\tilde\imath_s - F_s)$: a running sum and a **running maximum**, known for all tokens before any
# state is. What is left, with $\log f_t + m_{t-1} - m_t \le 0$ as its log decay, is a gated recurrence like any
# other, and chapter 07's chunks compute it. From chunk to chunk go $S$, $n$ *and* $m$.
#
# ## 6 · Two memories under the microscope
#
# The two trained models of section 3, on one text:

# %% tags=["measured"]
from seqlab import figures as course_figures
from seqlab.microscope import observe

text = example.tokens[:, :14]
words = [task.word(n) for n in text[0].tolist()]
traces = {}
for name in ("mLSTM", "sLSTM"):
    model = bidders[name][0]
    u = model.blocks[0].mixer_norm(model.embedding(text)).detach()
    traces[name] = observe(model.blocks[0].mixer, u, words)
torch.manual_seed(0)
from seqlab.mixers import MLSTMBlock

u = torch.randn(24, 32)[text[0] % 24][None]
traces["mLSTM block of 2024, untrained"] = observe(MLSTMBlock(32), u, words)


def memory(mixer="mLSTM", t=13):
    return course_figures.microscope(traces[mixer], t)


explore(memory, mixer=list(traces), t=(0, 13))

# %% [markdown]
# *What to see.* Choose an architecture, and move through the tokens. In the mLSTM's panel of weights a high bid is a
# dark column that goes on until a higher bid begins the next one; low bids hardly leave a trace. (What is shown is the
# table at its own scale, $e^{-m}$ times the true one, so its half-lives are those after the stabiliser: without end as
# long as nothing louder comes.) The sLSTM is seen from outside: it keeps $h$, $c$, $n$ and $m$. The untrained block of
# 2024 weighs all tokens about alike.
#
# ## 7 · In the wild
#
# The first paper stacks blocks of both kinds, in ratios such as 7 mLSTM to 1 sLSTM. **xLSTM 7B** (2025) has 32
# blocks, and all of them are mLSTM: the sLSTM was given up for speed. Its sizes are the zoo's:

# %% tags=["nbval-check-output"]
from seqlab.zoo import recipe
from seqlab.zoo.memory import kept

xlstm = recipe("xLSTM")
sizes = xlstm.published["7B"]
count = sum(p.numel() for p in xlstm.full("7B").parameters())
print(f"xLSTM 7B: {count / 1e9:.2f} billion parameters in {sizes['n_layers']} blocks")
print("MiB kept of        1,024 tokens   1,048,576 tokens")
for name, model in (("xLSTM", "7B"), ("Transformer 2026", "Llama 3.1 8B")):
    held = [kept(name, model).bytes(2**n) / 2**20 for n in (10, 20)]
    print(
        f"{model if name[0] == 'T' else 'xLSTM 7B':16}{held[0]:15,.0f}{held[1]:19,.0f}"
    )

# %% [markdown]
# (States in float32, the cache in bfloat16.) The state of xLSTM 7B costs as much as about 1,000 tokens of Llama's
# cache, and stays as it is.
#
# Three things changed on the way to 7B, all for stable training at that size: $\tilde\imath$ starts at $-10$, so a
# token writes little at first; both gates are capped softly, $15 \tanh(\cdot / 15)$; and keys are half as wide as
# values.
#
# ### Fact check
#
# **"xLSTM can be trained in parallel."** The mLSTM can. The sLSTM cannot, because of $R$.
#
# **"xLSTM 7B combines sLSTM and mLSTM."** It has no sLSTM; its
# [config](https://huggingface.co/NX-AI/xLSTM-7b) and paper say so. So it gives up section 4's counting, too.
#
# **"An LSTM cannot revise what it has stored."** In section 3 it did so as well as the sLSTM. The paper shows its
# case on another task (nearest neighbours, with numbers for tokens), which we did not try.
#
# **"The stabiliser is an approximation."** It is an identity: section 2 checks it to 1e-9.
#
# ## 8 · Practise
#
# In a terminal, `seqlab start 10` puts your own copy of the exercises into `work/`.

# %% [markdown] tags=["exercises"]
# The table of exercises is made from their files.

# %% [markdown]
# The notebook is [exercises/10_xlstm.ipynb](../exercises/10_xlstm.ipynb); work on the copy in `work/`.
#
# ## Recap, in five lines
#
# 1. An exponential input gate lets a token outweigh the past without erasing it; with $f = 1$ a cell is a softmax.
# 2. The stabiliser $m_t = \max(\log f_t + m_{t-1}, \tilde\imath_t)$ keeps both gates at most 1 and changes no output.
# 3. sLSTM: gates that see $h_{t-1}$. It learned parity at any length tried, and it has to go token by token.
# 4. mLSTM: gates that see the token alone. It is linear attention with two gates and a normaliser; it runs in chunks.
# 5. On our bidding task both beat a sigmoid gate that sees only the token, and an old LSTM did as well as the sLSTM.
#
# Next, chapter 11: a recurrence beside a window of attention.
#
# ## References
#
# - M. Beck et al. [*xLSTM: Extended Long Short-Term Memory.*](https://arxiv.org/abs/2405.04517) 2024.
# - M. Beck et al. [*xLSTM 7B: A Recurrent LLM for Fast and Efficient Inference.*](https://arxiv.org/abs/2503.13427)
#   2025.
# - S. Hochreiter, J. Schmidhuber. [*Long Short-Term Memory.*](https://doi.org/10.1162/neco.1997.9.8.1735) 1997.
# - M. Milakov, N. Gimelshein. [*Online normalizer calculation for softmax.*](https://arxiv.org/abs/1805.02867) 2018.
