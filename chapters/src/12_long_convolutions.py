# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 12 · Long convolutions
#
# **After this chapter you can**
#
# - say which tokens a fixed filter can select, and which a gate before it adds;
# - convolve by the FFT: with the right padding, at the right cost, and aware of its errors;
# - write Hyena and H3 from their equations, and say why Hyena's memory grows while it decodes;
# - count the modes that a filter needs, so that a small state could replace it;
# - derive MEGA's damped average, Megalodon's complex one and its norm over time.
#
# **You need** chapter 06: kernels, modes, and one linear system read as a recurrence or as a convolution.
#
# **Time** 60 minutes to read, a minute to run.
#
# **Covers** H3 · Hyena · StripedHyena · MEGA · Megalodon CEMA · time-step norm.
#
# ## 1 · The marked token
#
# Here are three texts of random letters. In each, one letter has a mark `#` before it. At the end the question `?1`
# asks for that letter.

# %% tags=["nbval-check-output"]
import torch

from seqlab.tasks import Marked

torch.set_num_threads(1)
task = Marked()
example = task.batch(3, torch.Generator().manual_seed(0))
for tokens, targets in zip(example.tokens, example.targets, strict=True):
    text = " ".join(task.word(token) for token in tokens.tolist())
    print(f"{text}   answer: {task.word(targets[-1].item())}")

# %% [markdown]
# The same letters are everywhere, so no letter is important by itself. One must look at the token before it. This is
# *selection in context*.
#
# A **long convolution** gives every token a weight that depends on its age alone: $y_t = \sum_s h_{t-s}\, x_s$. The
# filter $h$ is learned, and then it is the same for every text. Can the sum $y_t$ tell which letter was marked? Take
# two places and two letters, which makes four texts: the mark is before the first place or before the second, and
# the letters are `a` and `b` or the other way round.

# %% tags=["nbval-check-output"]
from seqlab.course import holds

rng = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@holds
def a_sum_over_tokens_cannot_choose():
    vector = {letter: randn(8) for letter in "ab#c"}  # any embedding
    h = randn(8, 8)  # any filter: 8 channels, 8 ages

    def y(text):
        return sum(
            h[:, len(text) - 1 - s] * vector[token] for s, token in enumerate(text)
        )

    answer_a = y("c#accbcc") + y("ccbc#acc")
    answer_b = y("c#bccacc") + y("ccac#bcc")
    same(answer_a, answer_b)


# %% [markdown]
# Both sums hold the same tokens at the same places: each letter once at each place, and a mark once before each.
# Suppose that some direction $w$ tells the answers apart: $w \cdot y > 0$ for answer `a`, and $< 0$ for `b`. Then
# $w$ times the first sum is positive and $w$ times the second is negative. But the sums are equal. So no filter and
# no linear read answers all four texts.
#
# This is a statement about the sum. A layer has more parts: a nonlinear function after it, or products of inputs
# before it. Four models of width 32 are trained on the task, three times each (seeds 0, 1, 2). All take 150 steps of
# 32 texts at a learning rate of 0.01, chosen by runs of one seed from 0.005 to 0.02. Each model has one layer:
#
# - **S4D** (chapter 06): a filter, then a GELU and a gate at the output;
# - **H3** and **Hyena**: filters between products of inputs, derived below. H3 gets a shift of 4 taps and 2 complex
#   modes;
# - **Mamba** (chapter 06): no fixed filter at all.
#
# **Before you read on**, commit to an answer:

# %% tags=["measured"]
from functools import partial

from seqlab.course import predict
from seqlab.figures import long_convolutions as figures
from seqlab.mixers import H3, S4D, Hyena, Mamba
from seqlab.model import LanguageModel
from seqlab.train import accuracy, train

SEEDS = (0, 1, 2)
small = {"l_max": 64, "d_emb": 9, "d_filter": 32}
mixers = {
    "S4D": partial(S4D, d_state=16),
    "H3": partial(H3, d_state=4),
    "Hyena": partial(Hyena, **small),
    "Mamba": partial(Mamba, d_state=4),
}


def trained(mixer, task, seed, lr=0.01):
    torch.manual_seed(seed)
    model = LanguageModel(task.vocab, 32, [mixer], ffn=None)
    train(model, task, steps=150, lr=lr, seed=seed, show=False)
    return model


def share(model):
    return accuracy(model, task.batch(500, torch.Generator().manual_seed(10_000)))


models = {name: [trained(m, task, s) for s in SEEDS] for name, m in mixers.items()}
found = {name: [share(m) for m in ms] for name, ms in models.items()}
for name, xs in found.items():
    print(name, [f"{x:.0%}" for x in xs])
predict(
    "12-marked",
    "Which layers learn to name the marked letter?",
    lambda: figures.by_model(
        found,
        title="Only the filter without a gate before it fails to find the mark",
        chance=1 / 4,
    ),
    choices=["all four", "Mamba alone", "H3, Hyena and Mamba", "none"],
)

# %% [markdown]
# *What to see.* Each mark is a seed. S4D is little better than guessing. The other three find the letter; H3 is the
# least sure of them. The usual wrong guess is "Mamba alone", because it is often said that fixed filters cannot
# select. H3 and Hyena have fixed filters too, and they do select. Some runs off this page belong to the result. H3
# with 16 taps and 8 modes still guessed after 150 steps (seed 0, three learning rates from 0.005 to 0.02); after 300
# steps, at 0.01, it was right with each of three seeds. So it can do it, and learns it later. And two layers of S4D
# guessed after 120 steps (seed 0), though they could do it in principle: the gate of the first can compare each
# letter with the token before it.
#
# So what is it in Hyena that selects? And what does a fixed filter still not do? First we need the filter itself.
#
# ## 2 · Convolving by the FFT
#
# A filter as long as the text costs $T (T + 1) / 2$ products per channel. The **FFT** turns a convolution into a
# product: transform both, multiply, transform back, in $O(T \log T)$. But it convolves on a *circle*. The filter's
# end reaches round from the last tokens to the first ones. Zeros are the cure: appended up to length $2T$, they
# leave room for the end.


# %%
def our_conv(x, h):
    """y_t = Σ_s h_s x_{t-s}. x (B, T, D), h (D, L), the newest token's weight first."""
    T = x.shape[1]
    size = T + h.shape[1]
    spectrum = torch.fft.rfft(x.mT, n=size) * torch.fft.rfft(h, n=size)
    return torch.fft.irfft(spectrum, n=size)[..., :T].mT


# %% tags=["nbval-check-output"]
from seqlab.core.convolution import direct_conv, fft_conv


@holds
def with_zeros_appended_it_is_the_definition():
    x, h = randn(2, 23, 3).requires_grad_(), randn(3, 23).requires_grad_()
    answers = []
    for form in (our_conv, direct_conv, fft_conv):
        y = form(x, h)
        answers.append((y, *torch.autograd.grad(y.sin().sum(), (x, h))))
    same(answers[0], answers[1])
    same(answers[0], answers[2])


# %%
figures.circle(16)

# %% [markdown]
# *What to see.* Row t shows which tokens are in $y_t$. Every diagonal has one value, because the weight depends on
# the age alone: a Toeplitz matrix. With T points the upper right corner is full, and that is the future. The model
# would train well and be useless to decode with.
#
# When does it pay? By counting products, the FFT should win from about a hundred tokens on (exercise 12.1). Measured
# on this CPU, with 16 channels, against PyTorch's own convolution:

# %% tags=["measured"]
import torch.nn.functional as F

from seqlab.figures.training import timing_lines
from seqlab.train import best_seconds


def direct(x, h):
    padded = F.pad(x.mT, (x.shape[1] - 1, 0))
    return F.conv1d(padded, h.flip(-1)[:, None], groups=len(h)).mT


seconds, lengths = {}, (8, 16, 32, 64, 128, 256, 512)
for B in (1, 32):
    for name, form in (("FFT", fft_conv), ("direct", direct)):
        seconds[f"{name}, {B} texts"] = {
            n: best_seconds(partial(form, torch.randn(B, n, 16), torch.randn(16, n)), 5)
            for n in lengths
        }
fft, plain = seconds["FFT, 32 texts"], seconds["direct, 32 texts"]
slower = [n for n in lengths if plain[n] <= fft[n]]
finding = (
    f"With 32 texts at once the direct sum wins at T = {', '.join(map(str, slower))}"
)
timing_lines(seconds, title=finding if slower else "The FFT wins at every length tried")

# %% [markdown]
# *What to see.* With one text both calls take a fixed time at first, and that of the FFT is shorter. With 32 texts
# there is arithmetic to do: up to a hundred tokens or so the two are close, and whether the direct sum wins anywhere
# differs from run to run. At 512 the FFT is far ahead. A crossing belongs to a machine, a library and a batch, so
# measure it where you need it.
#
# The FFT has a second price. Each of its outputs is a sum over *all* frequencies, and each frequency over all
# tokens. So its rounding errors are as large as the loudest token requires, everywhere, also *before* that token. In
# the next cell token 512 is made louder, and we look at the error in the outputs before it.

# %% tags=["measured"]
x = torch.randn(1, 1024, 1, generator=torch.Generator().manual_seed(0)).double()
h = torch.exp(-torch.arange(1024) / 50)[None].double()


def rounded_spectra(x, h):
    """The FFT in float32, with both spectra rounded to bfloat16."""
    spectra = (torch.fft.rfft(u, n=2048) for u in (x.mT, h))
    a, b = (
        torch.complex(z.real.bfloat16().float(), z.imag.bfloat16().float())
        for z in spectra
    )
    return torch.fft.irfft(a * b, n=2048)[..., :1024].mT


print(
    "token 512 times    FFT, float32    spectra in bfloat16    sum of bfloat16 numbers"
)
for loud in (1, 100, 10_000):
    u = x.clone()
    u[:, 512] *= loud
    exact = direct_conv(u, h)[:, :512]
    ys = (
        fft_conv(u.float(), h.float()),
        rounded_spectra(u.float(), h.float()),
        direct_conv(u.bfloat16().float(), h.bfloat16().float()),
    )
    errors = [((y[:, :512] - exact).abs().max() / exact.abs().max()).item() for y in ys]
    print("{:15,}{:16.0e}{:23.0e}{:27.0e}".format(loud, *errors))

# %% [markdown]
# The direct sum does not care what comes later. In float32 the FFT's error grows with the loud token, but it stays
# small. With spectra in bfloat16 it does not: a token 10,000 times louder changes the outputs *before* it by up to a
# fifth of the largest of them. Such a model sees a shadow of its future. So an FFT convolution computes in float32
# at least, even in a model whose weights are bfloat16. `seqlab`'s does so.
#
# ## 3 · A filter as a function of time
#
# A filter with one learned number for each age would be long and would know nothing about neighbours. S4D's filter
# is a sum of modes (chapter 06). **Hyena** makes an *implicit filter*: a small network takes the age and returns the
# weights of all channels. The age enters as a few waves, the activations are sines, and the result is multiplied by
# a window that falls at a fixed speed δ for each channel. Here $t$ is the age as a share of the longest text,
# `l_max`, and so runs from 0 to 1; $W_o$ is a last linear map:
#
# $$h(t) = W_o\, \mathrm{FFN}(z_t) \cdot e^{-δ t} \qquad z_t = [\,t, \cos(2π f t), -\sin(2π f t)\,]_{f = 0, 1, \dots}$$


# %%
import math


def our_filter(layer, L):
    n = torch.arange(L, dtype=torch.float64)[:, None]
    t = n / (layer.l_max - 1)
    f = torch.linspace(1e-4, layer.bands - 1, layer.bands, dtype=torch.float64)
    angle = 2 * math.pi * n / layer.l_max * f
    z = torch.cat([t, angle.cos(), -angle.sin()], dim=-1).to(layer.out.weight)
    for W in layer.layers:
        z = torch.sin(layer.frequency * (z @ W.weight.T + W.bias))
    return z @ layer.out.weight.T * torch.exp(-t * layer.delta)


# %%
from seqlab.figures.state_space import curves
from seqlab.mixers.hyena import ImplicitFilter
from seqlab.widgets import explore


def drawn(frequency=14, channel=4):
    torch.manual_seed(0)
    layer = ImplicitFilter(8, 64, d_emb=9, frequency=float(frequency))
    with torch.no_grad():
        values = layer(64)[:, channel]
    window = torch.exp(-torch.arange(64) / 63 * layer.delta[channel])
    return curves(
        {
            "filter": (range(64), values),
            "window": (range(64), window * values.abs().max()),
        },
        title=f"Sines of frequency {frequency}, channel {channel}, before any training",
        x="age of the token",
        y="weight",
    )


explore(drawn, frequency=(1, 30), channel=(0, 7))

# %% [markdown]
# *What to see.* Drag the frequency. At 1 the filter is smooth, and close ages have nearly equal weights. At 14,
# which the authors use for language, it can tell neighbours apart. A higher channel has a window that falls faster.
# The window is drawn to the filter's largest value.
#
# No small recurrence made this filter, so nothing promises that a small state can replace it. Section 7 comes back
# to that. Note also that $t$ ends at 1: the filter is defined for ages up to `l_max` only.
#
# ## 4 · H3: compare with the token before
#
# **H3** (Hungry Hungry Hippos) was made for language. Its authors found that state space models lacked two skills:
# to recall an earlier token, and to compare tokens. So they put products around two filters:
#
# $$\tilde k = \mathrm{shift}(k) \qquad y_t = q_t \odot \mathrm{SSM}(\tilde k \odot v)_t$$
#
# The **shift** is a filter of a few free taps: with the taps 0, 1 it returns the token before (chapter 06). So
# $\tilde k_s v_s$ is a product of two *neighbours*: "after this key came that value". The second filter is a
# diagonal state space that keeps this product, and $q_t$ multiplies what is read. Both filters have a skip, $D x$.
# Written out:


# %%
def our_h3(layer, x):
    q, k, v = layer.q(x), layer.k(x), layer.v(x)
    k = our_conv(k, layer.shift.flip(-1)) + layer.D_k * k
    A = torch.complex(-layer.log_rate.exp(), layer.frequency)
    log_a = layer.log_dt.exp()[:, None] * A
    c = 2 * torch.view_as_complex(layer.C) * (log_a.exp() - 1) / A  # zero-order hold
    powers = torch.exp(log_a[..., None] * torch.arange(x.shape[1]))
    kernel = torch.einsum("dn, dnl -> dl", c, powers).real
    write = v * k
    return layer.out(q * (our_conv(write, kernel) + layer.D * write))


# %% tags=["nbval-check-output"]
def agree(ours, layer, x):
    leaves, answers = (x, *layer.parameters()), []
    for y in (ours(layer, x), layer(x)[0]):
        answers.append((y, *torch.autograd.grad(y.sin().sum(), leaves)))
    same(*answers)


@holds
def our_h3_is_seqlabs_and_its_gradients():
    agree(our_h3, H3(6, d_state=4).double(), randn(2, 19, 6).requires_grad_())


@holds
def two_tokens_are_enough_for_recall_by_hand():
    key, value, T = torch.eye(3).double(), randn(3, 5), 7  # key, value, key, …, key 1
    k, v, q = key[[0, 0, 1, 0, 2, 0, 1]], torch.zeros(T, 5).double(), key[1]
    k[1::2], v[1::2] = 0, value
    shifted = our_conv(k[None], torch.tensor([[0.0, 1.0]]).double().expand(3, 2))[0]
    same((v.mT @ shifted) @ q, value[1])


# %% [markdown]
# In the second theorem keys and values are separate tokens. The shift puts each key beside the value behind it, and
# a filter that never fades sums the products. (It uses the matrix $v \tilde k^\top$; the authors' code, and our
# trained model, have heads of width 1.) Our marked letter is the same problem with one key, the mark.
#
# ## 5 · Hyena: any filter, between gates
#
# **Hyena** keeps H3's pattern and frees its parts. A linear map and a convolution over three tokens give
# $x_0, x_1, v$. One implicit filter lies between two gates:
#
# $$y_t = x_{0,t} \odot \bigl( h * (x_1 \odot v) \bigr)_t$$
#
# This is order 2; order N repeats "gate, then convolve" with N - 1 filters. (The filter also has a skip,
# $b\,(x_1 v)$.) The *inner* gate $x_1$ decides what enters the filter, the *outer* gate $x_0$ what is used of its
# answer.


# %%
def our_hyena(layer, x, gated=True):
    u = our_conv(layer.inputs(x), layer.conv.weight.flip(-1)) + layer.conv.bias
    outer, inner, v = u.chunk(3, dim=-1)
    z = inner * v if gated else v
    h = our_filter(layer.filter, x.shape[1]).to(x.dtype).mT
    return layer.out(outer * (our_conv(z, h) + layer.bias[0] * z))


# %% tags=["nbval-check-output"]
@holds
def our_hyena_is_seqlabs_and_its_gradients():
    agree(our_hyena, Hyena(6, **small).double(), randn(2, 19, 6).requires_grad_())


# %% [markdown]
# Now the question of section 1: what selects? Take one part away at a time, and train again with the same seeds and
# settings.


# %% tags=["measured"]
class Ungated(Hyena):
    def forward(self, x, state=None):
        return our_hyena(self, x, gated=False), None


without = {
    "whole": found["Hyena"],
    "no inner gate": [
        share(trained(partial(Ungated, **small), task, s)) for s in SEEDS
    ],
    "no short convolution": [
        share(trained(partial(Hyena, d_conv=1, **small), task, s)) for s in SEEDS
    ],
}
figures.by_model(
    without,
    title="Hyena selects by the product of neighbours before its filter",
    chance=1 / 4,
)

# %% [markdown]
# *What to see.* Each mark is a seed. Without the inner gate, or without the short convolution that lets the gate see
# the token before, Hyena guesses like S4D. It needs both: the product $x_1 v$ of two neighbours is what the
# theorem's sum lacks. (The outer gate is not needed here: off the page, with `l_max` 48, three seeds without it
# reached 100 % in 100 steps.)
#
# One can see it. For one channel, the weight of token s in the answer at t is a matrix: the filter alone, then times
# the inner gate of each column, then times the outer gate of each row.

# %%
model = models["Hyena"][0]
layer, tokens = model.blocks[0].mixer, example.tokens[2:]
words = [task.word(token) for token in tokens[0].tolist()]
with torch.no_grad():
    u, _ = layer.conv(layer.inputs(model.blocks[0].mixer_norm(model.embedding(tokens))))
    outer, inner, _ = u[0].chunk(3, dim=-1)
    h = layer.filter(len(words)).mT
figures.operator(h, inner, outer, words, words.index("#") + 1)

# %% [markdown]
# *What to see.* Move the slider. Alone the filter has equal diagonals. The inner gate scales columns, and one column
# stands out: the letter behind the mark. The outer gate scales rows. So this is a T × T matrix that depends on the
# text, made of a fixed filter and two vectors. It is one channel of one seed, the one whose gate prefers the letter
# most.
#
# ## 6 · What the gate does not choose
#
# Now three letters are marked, and all three are asked for, the latest first. A text consists of 12 pairs of tokens;
# a mark is always the first token of a pair, and its letter the second. Hyena and Mamba are trained as before, at a
# learning rate of 0.02.

# %% tags=["measured"]
from seqlab.figures.griffin import by_range
from seqlab.train import evaluate

several = Marked(n_marked=3)
order = ("the latest", "the one before", "the earliest")


def by_question(model):
    _, right = evaluate(model, several, n=500)
    return right[:, -3:].float().mean(0).tolist()


harder, asked = {}, {}
for name in ("Hyena", "Mamba"):
    harder[name] = [trained(mixers[name], several, s, lr=0.02) for s in SEEDS]
    shares = zip(*(by_question(m) for m in harder[name]), strict=True)
    asked[name] = dict(zip(order, shares, strict=True))
    print(name, {what: [f"{x:.0%}" for x in xs] for what, xs in asked[name].items()})
by_range(
    asked,
    title="Both find the one between least often, Hyena less than Mamba",
    chance=1 / 4,
)

# %% [markdown]
# *What to see.* Each mark is a seed. For both the middle letter is the hardest. More steps part them. Off the page
# Hyena had 400 steps (three seeds, learning rate 0.02): 98 to 100 % for the latest, 97 or 98 % for the earliest, and
# still 60 to 63 % for the one between. A Mamba with 8 states a channel had 400 steps (two seeds, learning rate 0.01)
# and answered all three questions.
#
# Why the middle one? Each marked letter adds a weight $w(\text{age})$ to its own place in the read, and the largest
# place wins. A falling $w$ always returns the latest, a growing one the earliest. The middle one would need
# $w(a_2) > w(a_1)$ and $w(a_2) > w(a_3)$ for *all* ages $a_1 < a_2 < a_3$. Seen from the first question, letters
# have the ages 1, 3, 5 and so on. With the ages 1, 3, 5 that says $w(3) > w(5)$. With the ages 3, 5, 7 it says
# $w(5) > w(3)$. Both cannot hold. (The outer gate may choose another $w$ for each question, but for one question it
# is the same $w$ in all texts.) How often can one weight be right?

# %% tags=["nbval-check-output"]
from itertools import combinations

triples = list(combinations(range(12), 3))  # three of the 12 places, the newest first
weights = {
    "falling": [-age for age in range(12)],
    "growing": list(range(12)),
    "a hump in the middle": [-abs(age - 5.25) for age in range(12)],
}
print(f"{'right with one weight':24}" + "".join(f"{what:>16}" for what in order))
for name, w in weights.items():
    wins = [
        sum(w[ages[q]] == max(w[a] for a in ages) for ages in triples) for q in range(3)
    ]
    bests = [n / len(triples) for n in wins]
    print(f"{name:24}" + "".join(f"{b + (1 - b) / 4:16.0%}" for b in bests))

# %% [markdown]
# (A wrong letter is the right one by chance in a quarter of the texts. A search over orders of the 12 ages, from 20
# starts, found nothing better than the hump for the middle one.) So about two thirds is what a filter can reach, and
# Hyena's 60 to 63 % comes near it. A filter counts *tokens*, and "the one before" is counted in marks. Mamba's decay
# depends on the token, so its state can shrink at a mark and rest at a letter: its ages are counted in marks.
#
# And the filters? Training could have bent them:

# %% tags=["measured"]
torch.manual_seed(0)
start = LanguageModel(several.vocab, 32, [mixers["Hyena"]], ffn=None)
with torch.no_grad():
    before, after = (
        m.blocks[0].mixer.filter(64).mT for m in (start, harder["Hyena"][0])
    )
moved = ((after - before)[:, :24].norm() / before[:, :24].norm()).item()
figures.filters(
    {"before": before[:, :24], "after": after[:, :24]},
    {
        "before": "Before training: smooth filters",
        "after": f"Training changed the filters by {moved:.1f} times their size",
    },
)

# %% [markdown]
# *What to see.* Rows are channels, sorted by the mean age that they weigh after training. Move the slider: at the
# top are filters that prefer young tokens, at the bottom those that prefer old ones. These are the two answers that
# a filter can give.
#
# ## 7 · Decoding: the state that grows
#
# A filter that is any function of time must see every token again for every new one: $y_t$ needs all
# $z_0, \dots, z_t$, where $z = x_1 \odot v$ is what enters the filter. So Hyena keeps its whole input, one number
# per channel and token, and token t costs t products. For a sum of modes, $h_t = \sum_n c_n a_n^t$, chapter 06 has
# the way out: N numbers of state. How many modes would a Hyena filter need, after training? Put the filter into a
# **Hankel matrix**, $M_{ij} = h_{i+j+1}$: row i is the filter, i steps later. If N modes make the filter, then M is
# a sum of N products $a_n^i\, c_n a_n\, a_n^j$, so its rank is at most N. Its singular values say how much is lost
# with fewer.

# %% tags=["measured"]
noise = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
figures.modes({"Hyena, before": before, "trained": after, "random taps": noise})

# %% [markdown]
# *What to see.* Medians over the 32 channels. Nothing asked for it, but the implicit filter is close to a few modes,
# and after training it still is. Random taps are not. *Laughing Hyena* makes a method of this: it fits a few modes
# to each trained filter, and then decodes with a state of fixed size. **StripedHyena** starts from there: its own
# filters *are* sums of two decaying oscillations a channel, and its layers alternate with attention.
#
# ## 8 · MEGA and Megalodon: averages before attention
#
# **MEGA** uses a very short list of modes, and gives the rest of the work to attention in chunks. Its filter is an
# exponential moving average, where α is the share of the new input. A *damping* factor δ (not the speed δ of Hyena's
# window) says how much is kept: $1 - αδ$ in place of $1 - α$. So memory and write are set apart. Each channel has N
# such averages: β scales what each of them reads, η weighs them in the sum, and $ω x$ is a skip. None of these
# depends on the token:
#
# $$h_t = (1 - α δ)\, h_{t-1} + α β\, x_t \qquad x'_t = \mathrm{silu}(η \cdot h_t + ω x_t)$$
#
# Then $x'$, a text blurred over time, makes one narrow vector $z$; queries and keys are two scaled and shifted
# copies of it (κ and μ). Values come from $x$ itself. Attention sees only its own chunk, with a learned bias for
# each age. A *reset* gate multiplies what attention returns, and an *update* gate says how much of the stream is
# replaced:


# %%
def our_mega(layer, x):
    T, C = x.shape[1], layer.chunk_size
    alpha, delta = layer.alpha.sigmoid(), layer.delta.sigmoid()
    read = layer.eta * layer.beta * alpha * layer.eta.shape[1] ** -0.5
    powers = (1 - alpha * delta)[..., None] ** torch.arange(T)
    kernel = torch.einsum("dn, dnl -> dl", read, powers)
    moved = layer.moved(F.silu(our_conv(x, kernel) + layer.omega * x))
    update, candidate, z, reset = moved.split(layer.widths, dim=-1)
    q, k = (
        kappa * F.silu(z) + mu for kappa, mu in zip(layer.kappa, layer.mu, strict=True)
    )
    i = torch.arange(T)
    age, other_chunk = i[:, None] - i, i[:, None] // C != i // C
    scores = q @ k.mT / z.shape[-1] ** 0.5 + layer.bias[age.clamp(0, C - 1)]
    weights = scores.masked_fill((age < 0) | other_chunk, -torch.inf).softmax(-1)
    o = weights @ F.silu(layer.v(x))
    hidden = F.silu(candidate + layer.u(F.silu(reset) * o))
    return update.sigmoid() * (hidden - x)


def our_cema(layer, x):
    alpha, delta = layer.alpha.sigmoid(), layer.delta.sigmoid()
    N = alpha.shape[1]
    angle = 2 * math.pi / N * layer.theta.sigmoid()[:, None] * torch.arange(1, N + 1)
    a = torch.polar(1 - alpha * delta, angle)
    read = torch.view_as_complex(layer.eta) * alpha * N**-0.5
    powers = a[..., None] ** torch.arange(x.shape[1])
    return (
        our_conv(x, torch.einsum("dn, dnl -> dl", read, powers).real) + layer.omega * x
    )


# %% tags=["nbval-check-output"]
from seqlab.mixers import CEMA, MEGA


@holds
def our_averages_are_megas_and_megalodons():
    x = randn(2, 13, 6).requires_grad_()
    agree(our_mega, MEGA(6, d_state=3, d_z=4, chunk_size=4).double(), x)
    agree(our_cema, CEMA(6, d_state=3).double(), x)


# %% [markdown]
# **Megalodon** lets each average also rotate, by an angle θ: the **complex EMA**, Megalodon CEMA in the zoo. Only
# the real part is read. A sum of decaying exponentials becomes a sum of decaying *waves*, which can count a few
# tokens:


# %%
def kernels(keep=0.9, turn=30):
    a, l = torch.polar(torch.tensor(keep), torch.tensor(math.radians(turn))), range(48)
    wave = (a ** torch.arange(48)).real
    period = f"one turn in {360 / turn:.0f} tokens" if turn else "no turn"
    return curves(
        {"damped average": (l, keep ** torch.arange(48)), "complex average": (l, wave)},
        title=f"One mode that keeps {keep:g} a token: {period}",
        x="age of the token",
        y="weight",
    )


explore(kernels, keep=(0.5, 0.99, 0.01), turn=(0, 180, 5))

# %% [markdown]
# *What to see.* Drag both. At an angle of 0 the two agree. At 180 degrees the sign changes with every token. At any
# other angle the wave comes back after one turn, damped.
#
# Its second change is the **time-step norm**. A layer norm looks at one token. A norm over the whole text would be
# stronger, but it would see the future. So each token is normalised by mean and variance of all tokens *up to now*,
# in groups of channels:


# %% tags=["nbval-check-output"]
def timestep_norm(x, groups, eps=1e-5):
    """x (T, D): each token by mean and variance of its group so far."""
    u = x.unflatten(-1, (groups, -1))
    count = u.shape[-1] * torch.arange(1, len(x) + 1)[:, None]
    mean = u.sum(-1).cumsum(0) / count
    variance = (u**2).sum(-1).cumsum(0) / count - mean**2
    return ((u - mean[..., None]) / (variance[..., None] + eps).sqrt()).flatten(-2)


@holds
def each_token_is_group_normalised_with_its_past():
    x = randn(9, 6)
    expected = [F.group_norm(x[: t + 1].mT[None], 2)[0, :, t] for t in range(9)]
    same(timestep_norm(x, 2), torch.stack(expected))


# %% [markdown]
# (A difference of two large sums loses digits: in float32, with a mean of 300, this code is off by about a
# hundredth. Exercise 12.8 mends it. Megalodon also normalises its attention and changes its residual; these are not
# built here.) The memory of such a layer under the microscope, on one text of section 1:

# %%
from seqlab import figures as course_figures
from seqlab.microscope import observe

with torch.no_grad():
    heard = model.blocks[0].mixer_norm(model.embedding(tokens))
torch.manual_seed(0)
traces = {
    "H3": observe(H3(32, d_state=4), heard, words),
    "MEGA": observe(MEGA(32, d_state=4, chunk_size=8), heard, words),
    "Megalodon CEMA": observe(CEMA(32, d_state=4), heard, words),
    "Hyena": observe(layer, heard, words),
}


def memory(mixer="Hyena", t=20):
    return course_figures.microscope(traces[mixer], t)


explore(memory, mixer=list(traces), t=(0, len(words) - 1))

# %% [markdown]
# *What to see.* Choose a layer and move through the tokens. MEGA's table is emptied in part every 8 tokens, when a
# chunk ends; only the averages remain. Megalodon's averages and H3's modes stay the same size. Hyena's table is what
# it has read. (Hyena is trained, the others are not.)
#
# ## 9 · In the wild
#
# StripedHyena 7B has 32 layers, Hyena and attention in turn. What would it keep if its filters were Hyena's,
# networks of time?

# %% tags=["nbval-check-output"]
from seqlab.zoo import recipe
from seqlab.zoo.memory import kept

size = recipe("StripedHyena").published["7B"]
pairs, width = size["n_layers"] // 2, size["d_model"]
attention = pairs * 2 * size["n_kv_heads"] * width // size["n_heads"]
growing = kept("StripedHyena", "7B").growing
print(f"numbers kept per token, all layers: {growing:,}")
print(f"  in {pairs} layers of attention: {attention:,}")
print(f"  in {pairs} layers of Hyena: {growing - attention:,}")
print(f"with two complex modes a channel, in all: {pairs * width * 2 * 2:,}")
per_token = kept("Transformer 2026", "Llama 3.1 8B").growing
print(f"Llama 3.1 8B, per token: {per_token:,}")

# %% [markdown]
# With networks of time the convolutions would keep *more* than the attention layers beside them, whose eight heads
# of keys and values are shared by 32 heads of queries. All together they would keep more per token than the 32
# layers of attention of Llama 3.1 8B. "No attention" does not mean "no cache". With two modes a channel the
# convolutions' part stops growing.
#
# ### Fact check
#
# **"Fixed filters cannot select by content."** The filter cannot. The layers that use it multiply inputs before it,
# and in section 1 they select one marked token as well as Mamba.
#
# **"A convolution costs T log T, so these models decode faster than attention."** That is the cost of a whole text
# at once. Token by token, a filter without modes costs T² in total, and a cache.
#
# **"MEGA is attention with linear cost."** Yes, since a token sees at most its chunk. But a pair of tokens in
# different chunks is never compared: what crosses is the average.
#
# ## 10 · Practise
#
# In a terminal, `seqlab start 12` puts your own copy of the exercises into `work/`.

# %% [markdown] tags=["exercises"]
# The table of exercises is made from their files.

# %% [markdown]
# The notebook is [exercises/12_long_convolutions.ipynb](../exercises/12_long_convolutions.ipynb); work on the copy
# in `work/`.
#
# ## Recap, in five lines
#
# 1. A filter weighs by age. A sum of such weights cannot tell which token was marked.
# 2. A product of two neighbours before the filter can. H3 has it by its shift, Hyena by a short convolution and a gate.
# 3. The FFT convolves on a circle: pad it, and compute it in float32 at least.
# 4. A filter counts tokens, not marks. Of three marked letters it can return the latest or the earliest, but the one
#    between only in about two thirds of the texts.
# 5. A filter without modes needs a cache to decode. MEGA and Megalodon have modes, and attention within chunks.
#
# Next, chapter 13: test-time training.
#
# ## References
#
# - D. Fu et al. [*Hungry Hungry Hippos: Towards Language Modeling with State Space
#   Models.*](https://arxiv.org/abs/2212.14052) 2022.
# - M. Poli et al. [*Hyena Hierarchy: Towards Larger Convolutional Language
#   Models.*](https://arxiv.org/abs/2302.10866) 2023.
# - S. Massaroli et al. [*Laughing Hyena Distillery: Extracting Compact Recurrences From
#   Convolutions.*](https://arxiv.org/abs/2310.18780) 2023.
# - M. Poli et al. [*StripedHyena.*](https://doi.org/10.57967/hf/1595) 2023.
# - X. Ma et al. [*Mega: Moving Average Equipped Gated Attention.*](https://arxiv.org/abs/2209.10655) 2022.
# - X. Ma et al. [*Megalodon: Efficient LLM Pretraining and Inference with Unlimited Context
#   Length.*](https://arxiv.org/abs/2404.08801) 2024.
# - A. Gu et al. [*On the Parameterization and Initialization of Diagonal State Space
#   Models*](https://arxiv.org/abs/2206.11893) (S4D). 2022.
# - A. Gu, T. Dao. [*Mamba.*](https://arxiv.org/abs/2312.00752) 2023.
