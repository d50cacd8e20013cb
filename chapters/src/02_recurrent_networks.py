# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 · Recurrent networks
#
# **After this chapter you can**
#
# - say why a plain recurrent network cannot learn long gaps, and measure it;
# - write the gradient through time as a product of Jacobians, and bound it by a singular value;
# - write an LSTM and a GRU, and say what the start of their gates decides;
# - show that a forget gate is the decay of chapters 04 and 05;
# - say why a nonlinear recurrence has to wait for each step, and which property removes the wait;
# - build the attention that came before transformers: a Neural Turing Machine's head, a memory network, a recurrent
#   network that chooses among its own past states.
#
# **You need** chapter 01: what attention costs. Jacobians help: the matrix of all partial derivatives of a map.
#
# **Time** 75 minutes to read, a minute to run.
#
# **Covers** Elman RNN · LSTM · GRU · Neural Turing Machine · Memory network · Attention-based memory selection.
#
# ## 1 · A failure: ten blanks are too many
#
# Chapter 01 ended on a price: attention looks at everything before a token, so each token costs more than the last. A
# **recurrent** network pays the same for every token. It carries a state $h_t$ of fixed size, and the simplest form of
# it is Elman's:
#
# $$h_t = \tanh(R\,h_{t-1} + W x_t + b) \qquad y_t = h_t$$
#
# Why was it given up? Here is a task that needs nothing but memory: a *delayed copy*. One of four symbols, then blanks,
# then a question: which symbol was it? Each model has one layer of width 16. It is trained for 60 steps at a learning
# rate of 0.02, three times, with seeds 0, 1 and 2.

# %%
import torch

from seqlab.figures import recurrent as figures
from seqlab.mixers import Elman
from seqlab.model import LanguageModel
from seqlab.tasks import DelayedCopy
from seqlab.train import accuracy, train

torch.set_num_threads(1)
SEEDS = (0, 1, 2)


def copied(mixer, delay, seed):
    """A model trained at this delay, and its share of right answers."""
    torch.manual_seed(seed)
    task = DelayedCopy(4, delay)
    model = LanguageModel(task.vocab, 16, [mixer], ffn=None)
    train(model, task, steps=60, batch_size=8, lr=0.02, seed=seed, label=f"{delay}")
    return model, accuracy(model, task.batch(64, torch.Generator().manual_seed(1)))


right = {d: [copied(Elman, d, s)[1] for s in SEEDS] for d in (2, 5, 10, 20, 200)}

# %% [markdown]
# Beside the answers, look at what training works with. At the start, how strongly does the last state depend on the
# state $n$ steps before it? The norm $\lVert \partial h_T / \partial h_t \rVert$ says by how much a change of $h_t$ is
# scaled at most. The next section computes it.

# %% tags=["measured"]
norms = []
for seed in SEEDS:
    torch.manual_seed(seed)
    mixer, noise = Elman(16).double(), torch.randn(1, 60, 16).double()
    norms.append(figures.path_norms(mixer.R.weight, mixer(noise)[0][0]).detach())
figures.failure(right, torch.stack(norms), chance=1 / 4)

# %% [markdown]
# *What to see.* Left: a few blanks can be learned, ten hardly, and from twenty on every seed answers as if it had not
# seen the symbol. Right: three untrained networks. The dependence falls by a constant factor at each step, so a
# straight line on a logarithmic axis. The signal that should teach the network to keep the symbol must come back along
# this line. It is not small: it is gone.
#
# ## 2 · A gradient through time is a product
#
# One step has the Jacobian $J_t = \partial h_t / \partial h_{t-1}$. Since $\tanh' = 1 - \tanh^2$, and $R$ multiplies
# $h_{t-1}$:
#
# $$J_t = \mathrm{diag}(1 - h_t^2)\, R \qquad
#   \frac{\partial h_T}{\partial h_t} = J_T\, J_{T-1} \cdots J_{t+1}$$


# %%
def elman(R, Wx, h):
    """All states: Wx (T, D) is W x_t + b for all t, h (D,) the state before them."""
    states = []
    for Wx_t in Wx:
        h = torch.tanh(R @ h + Wx_t)
        states.append(h)
    return torch.stack(states)


def through_time(R, states):
    """∂h_T / ∂h_0, the product of the Jacobians."""
    product = torch.eye(len(R), dtype=R.dtype)
    for h in states:
        product = (1 - h**2)[:, None] * R @ product
    return product


# %% tags=["nbval-check-output"]
from seqlab.course import holds

rng = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def with_gradients(y, *leaves):
    return (y, *torch.autograd.grad(y.sin().sum(), leaves, retain_graph=True))


@holds
def our_states_are_those_of_seqlabs_elman():
    layer, x = Elman(6).double(), randn(1, 9, 6).requires_grad_()
    ours = elman(layer.R.weight, layer.W(x)[0], torch.zeros(6).double())
    leaves = x, layer.R.weight, layer.W.bias
    same(with_gradients(ours, *leaves), with_gradients(layer(x)[0][0], *leaves))


@holds
def the_gradient_through_time_is_a_product_of_jacobians():
    R, Wx, h = randn(6, 6), randn(9, 6), randn(6)
    by_autograd = torch.func.jacrev(lambda h: elman(R, Wx, h)[-1])(h)
    same(through_time(R, elman(R, Wx, h)), by_autograd)


# %% [markdown]
# How large is such a product? The largest singular value of $R$, written $\lVert R \rVert$, is the most by which $R$
# stretches any vector, and $1 - h^2$ never stretches. So
#
# $$\left\lVert \frac{\partial h_T}{\partial h_t} \right\rVert \le \lVert R \rVert^{\,T - t}$$
#
# If $\lVert R \rVert < 1$, the gradient **vanishes**, whatever the data. If it is above 1, nothing is promised: the
# gradient may explode, or tanh may still shrink it. Turn the dial. (One random $R$, scaled to a largest singular value;
# one random input of 40 steps; `drive` is the size of the input.)

# %%
from seqlab.widgets import explore

dial_R, dial_x = randn(16, 16), randn(41, 16)


def turn(singular_value=1.0, drive=0.3):
    return figures.dial(dial_R, dial_x, singular_value, drive)


explore(turn, singular_value=(0.5, 4.0, 0.1), drive=(0.0, 2.0, 0.1))

# %% [markdown]
# *What to see.* At $\lVert R \rVert = 1$ the bound is flat, but even the network without tanh falls: the largest
# singular value belongs to one direction, and $R$ turns vectors away from it. Raise the dial, and the dashed line turns
# upwards. The solid line lags behind it, because larger states push tanh into its flat ends. Find a setting at which
# the solid line is level, then change the drive: the gradient grows or vanishes again. A memory that lasts needs a path
# through time on which no matrix multiplies.
#
# ## 3 · LSTM: the memory is a sum
#
# The LSTM adds that path. Beside $h$ it has a **cell** $c$ that no matrix multiplies:
#
# $$c_t = f_t\, c_{t-1} + i_t\, g_t \qquad h_t = o_t \tanh(c_t)$$
#
# All products are elementwise. The forget gate $f$, the input gate $i$ and the output gate $o$ are
# $\sigma(W x_t + R h_{t-1} + b)$, numbers between 0 and 1, each with weights of its own; the candidate $g$ is a tanh of
# the same form. Along the cell, $\partial c_t / \partial c_{t-1} = f_t$: a number, and the network chooses it. This is
# the first time that the course's equation appears:
#
# $$S_t = f_t\, S_{t-1} + i_t\, v_t$$


# %%
def lstm(W, R, b, x, h, c):
    """x (T, D), h and c (D,); the rows of W, R and b are those of i, f, g, o."""
    hs, cs, gates = [], [], []
    for x_t in x:
        i, f, g, o = (W @ x_t + R @ h + b).chunk(4)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * c + i * g
        h = o * c.tanh()
        hs.append(h)
        cs.append(c)
        gates.append(torch.stack([i, f, g]))
    return torch.stack(hs), torch.stack(cs), torch.stack(gates, dim=1)


# %% tags=["nbval-check-output"]
from seqlab.mixers import LSTM


@holds
def our_lstm_is_seqlabs():
    layer, x, zero = LSTM(6).double(), randn(1, 9, 6).requires_grad_(), randn(6) * 0
    leaves = layer.W.weight, layer.R.weight, layer.W.bias
    ours, _, _ = lstm(*leaves, x[0], zero, zero)
    same(with_gradients(ours, x, *leaves), with_gradients(layer(x)[0][0], x, *leaves))


# %% [markdown]
# The **GRU** does with one gate what the LSTM does with two: $z$ keeps, $1 - z$ writes, so the shares of old and new
# add up to 1. It has no separate cell. A reset gate $r$ lets the candidate ignore the past:
#
# $$h_t = z_t\, h_{t-1} + (1 - z_t)\, n_t \qquad n_t = \tanh\bigl(W_n x_t + b_n + r_t\,(R_n h_{t-1} + b'_n)\bigr)$$


# %%
def gru(W, R, b, b_R, x, h):
    """The rows of W, R and both biases are those of r, z, n."""
    hs = []
    for x_t in x:
        (r, z, n), (r_h, z_h, n_h) = (W @ x_t + b).chunk(3), (R @ h + b_R).chunk(3)
        r, z = (r + r_h).sigmoid(), (z + z_h).sigmoid()
        h = z * h + (1 - z) * torch.tanh(n + r * n_h)
        hs.append(h)
    return torch.stack(hs)


# %% tags=["nbval-check-output"]
from seqlab.mixers import GRU


@holds
def our_gru_is_seqlabs():
    layer, x = GRU(6).double(), randn(1, 9, 6).requires_grad_()
    leaves = layer.W.weight, layer.R.weight, layer.W.bias, layer.R.bias
    ours = gru(*leaves, x[0], randn(6) * 0)
    same(with_gradients(ours, x, *leaves), with_gradients(layer(x)[0][0], x, *leaves))


# %% [markdown]
# **Before you read on**, commit to an answer. The LSTM is trained on the delayed copy over 200 blanks, with the same
# budget as Elman's network. PyTorch starts all its weights and biases near 0. How often will it answer right?

# %% tags=["measured"]
from functools import partial

from seqlab.course import predict


def started(mixer, **biases):
    """A mixer whose gates start with these biases, each under its letter."""

    def make(d_model):
        layer, names = mixer(d_model), "ifgo" if mixer is LSTM else "rzn"
        for name, bias in biases.items():
            row = names.index(name)
            layer.W.bias.data[row * d_model : (row + 1) * d_model] = bias
        return layer

    return make


gated = {
    "LSTM, as PyTorch<br>starts it": LSTM,
    "LSTM, forget<br>bias 5": started(LSTM, f=5),
    "LSTM, forget 5,<br>input -5": started(LSTM, f=5, i=-5),
    "GRU, z bias 5": started(GRU, z=5),
}
models = {name: [copied(m, 200, s) for s in SEEDS] for name, m in gated.items()}


def gates_at_200():
    found = {name: [share for _, share in runs] for name, runs in models.items()}
    title = "Over 200 blanks an LSTM learns only if its gates start right"
    return figures.by_seed(found, chance=1 / 4, title=title)


predict(
    "02-lstm",
    "An LSTM, as PyTorch starts it, trained to copy over 200 blanks: right answers?",
    gates_at_200,
    choices=["nearly all", "about half", "no better than guessing"],
)

# %% [markdown]
# *What to see.* As PyTorch starts it, the LSTM is no better than Elman's network here. "Nearly all" is what many texts
# lead one to expect. But the sum only keeps what the gate lets it keep. At a bias of 0, $f = \sigma(0) = \tfrac12$:
# each blank halves the cell, and after 200 blanks $2^{-200}$ is left. The half-life at a bias $b$ is
# $\ln 2 / {-\ln \sigma(b)}$: one token at $b = 0$, 103 tokens at $b = 5$.
#
# That alone does not help either, because the input gate is half open. Each blank adds its own $i\,g$, and a hundred
# blanks drown one symbol. With the input gate shut at the start, every seed learns. The GRU gets both from one number,
# because its writing share *is* one minus its keeping share. (Three seeds, one width, one learning rate, 60 steps. With
# more training the models on the left may learn, too. What they lack at the start is what this measures.)
#
# What do the gates of the third model do? Let it read each of the four symbols, followed by 200 blanks, and look at the
# cell in which the symbols differ most when they have just been read.

# %% tags=["measured"]
trained = models["LSTM, forget 5,<br>input -5"][0][0]
texts = torch.tensor([[symbol, *[4] * 200, 5] for symbol in range(4)])


def inside(model, tokens):
    """The cell and the gates while the model reads one text: c (T, D) and (i, f, g)."""
    layer, zero = model.blocks[0].mixer, torch.zeros(16)
    with torch.no_grad():
        x = model.blocks[0].mixer_norm(model.embedding(tokens))
        _, c, ifg = lstm(layer.W.weight, layer.R.weight, layer.W.bias, x, zero, zero)
    return c, ifg


c = torch.stack([inside(trained, tokens)[0] for tokens in texts])
_, (i, f, g) = inside(trained, texts[0])
holds_it = int(c[:, 0].std(0).argmax())
figures.gates(
    {f"after {letter}": c[n, :, holds_it] for n, letter in enumerate("abcd")},
    {"forget gate f": f[:, holds_it], "input gate i": i[:, holds_it]},
    title="What the first token wrote, the cell keeps over 200 blanks",
)

# %% [markdown]
# *What to see.* Left: one cell, a line for each symbol. The *distances* between the lines are made at the first token,
# and over 200 blanks they stay. Right: the gates of this cell. The forget gate is practically 1, so nothing shrinks
# the distances. The input gate is practically 0, and what little it lets in is the same after every symbol, so the
# lines can drift only together. (One cell need not tell all four symbols apart. Other cells do the rest.)
#
# ## 4 · The forget gate is a decay
#
# Fix the gates for a moment, whatever they were computed from. Then $c_t = f_t c_{t-1} + i_t g_t$ is linear in $c$, and
# it is the course's recurrence with one key channel: the decay is $f$, the value is $i\,g$, and key and query are 1.


# %% tags=["nbval-check-output"]
from seqlab.core.recurrence import parallel, recurrent


@holds
def an_lstms_cell_is_a_gated_linear_recurrence():
    layer, x, zero = LSTM(6).double(), randn(9, 6), randn(6) * 0
    _, c, (i, f, g) = lstm(layer.W.weight, layer.R.weight, layer.W.bias, x, zero, zero)
    one = torch.ones(1, 9, 6, 1).double()
    v, log_a = (i * g)[None, ..., None], f.log()[None, ..., None]
    for form in (recurrent, parallel):
        y, _ = form(one, one, v, log_a=log_a)
        same(y[0, ..., 0], c)


# %% [markdown]
# One of the two forms in this check is *parallel*: all tokens at once, no loop. So the cell was never the obstacle. The
# gates are: they need $h_{t-1}$. Chapter 04 takes a constant for $f$, and chapter 05 lets it depend on $x_t$ alone;
# both train in parallel. The product of forget gates between two tokens is their decay mask. Here is a trained one:

# %% tags=["measured"]
from seqlab.figures import attention_matrix

faster = int(
    (f[:40].mean(0) - 0.93).abs().argmin()
)  # a cell that forgets in tens of tokens
span = f[:32, faster].log().cumsum(0)
attention_matrix(
    (span[:, None] - span).exp().tril(),
    ["a", *"·" * 31],
    title="Between two tokens, forget gates multiply: a decay mask",
)

# %% [markdown]
# *What to see.* Row $t$, column $s$: the share of what was written at $s$ that is left at $t$, $\prod_{r=s+1}^{t} f_r$.
# This is a cell of the same model that forgets within some tens of tokens. For the cell that kept the symbol, the whole
# triangle would be dark. Chapter 04 draws this picture for a constant decay and chapter 05 for chosen ones.
#
# ## 5 · Why time waits
#
# With the right gates the LSTM remembers. What it cannot do is hurry. Each cell of an RNN needs the cell before it and
# the one below it; a cell of attention needs the layer below, all of which is there.

# %%
figures.waiting(T=8, layers=3)

# %% [markdown]
# *What to see.* Move the slider. In each round everything is computed (orange) whose inputs are ready. Attention takes
# as many rounds as it has layers. The RNN takes a round for each token, and one more for each further layer. No number
# of cores changes that: 8,192 tokens are 8,192 rounds.
#
# Could we not merge steps? If two steps in a row were again *one step of the same form*, neighbours could be merged,
# all pairs at once, then pairs of pairs: $\log_2 T$ rounds. For a linear step that is so:
#
# $$a_2 (a_1 h + b_1) + b_2 = (a_2 a_1)\, h + (a_2 b_1 + b_2)$$
#
# For tanh it is not. A single step $h \mapsto \tanh(r h + x)$ with $r \ne 0$ reaches every number between -1 and 1.
# Two in a row, $\tanh(r_2 \tanh(r_1 h + x_1) + x_2)$, stay between $\tanh(x_2 - |r_2|)$ and $\tanh(x_2 + |r_2|)$,
# because the inner tanh does. So no $r$ and $x$ whatever make one step out of two. One could carry along the merged map
# as it is, a tanh in a tanh in a tanh. But its description grows with each merge, and nothing is gained.


# %% tags=["nbval-check-output"]
@holds
def two_linear_steps_are_one_linear_step():
    (a1, a2), (b1, b2), h = randn(2, 7), randn(2, 7), randn(7)
    same(a2 * (a1 * h + b1) + b2, (a2 * a1) * h + (a2 * b1 + b2))


@holds
def two_steps_of_tanh_reach_less_than_any_one_step():
    h = torch.linspace(-1e4, 1e4, 10001).double()
    (r1, r2), (x1, x2) = (0.8, -1.2), (0.3, 0.5)
    two = torch.tanh(r2 * torch.tanh(r1 * h + x1) + x2)
    bound = torch.tanh(x2 + abs(r2) * torch.tensor([-1.0, 1.0]).double())
    same(torch.stack([two.min(), two.max()]), bound)
    for r in (-3.0, -0.1, 0.01, 1.0):
        assert torch.tanh(r * h + x1).aminmax().max > bound[1] + 0.05


# %% [markdown]
# Drop the tanh from the state's path, and time no longer waits. That is the door to chapter 03 and all that follows.
# First, the other way out, which people found before: keep the recurrent network, and let it *look things up*.
#
# ## 6 · Attention before attention
#
# The best known step is a translator's: [Bahdanau, Cho and Bengio](https://arxiv.org/abs/1409.0473) (2014) let each new
# word look back at all states of the network that read the source. Three machines of those years let a network look
# into a memory of its own.
#
# ### A tape with a soft head
#
# A **Neural Turing Machine** (2014) gives a network a table of $N$ rows and two heads, one to write and one to read. A
# head is a set of weights $w$ over the rows, made in four steps from numbers that the network puts out: by **content**
# (a key $k$, compared by cosine, sharpened by $\beta$), **interpolated** with the head's last place ($g$), **shifted**
# by -1, 0 or 1 row ($s$), and **sharpened** again ($\gamma$). The writing head erases and adds, the reading head reads:
#
# $$M \leftarrow M\,(1 - w\,e^\top) + w\,a^\top \qquad r = M^\top w$$


# %%
def address(M, last, k, beta, g, s, gamma):
    """The weights of one head. M (N, W), last (N,), k (W,), s (3,) for -1, 0, 1."""
    content = (beta * torch.cosine_similarity(M, k, dim=-1)).softmax(-1)
    w = g * content + (1 - g) * last
    w = s[0] * w.roll(-1) + s[1] * w + s[2] * w.roll(1)
    return w**gamma / (w**gamma).sum()


def write(M, w, erase, add):
    return M * (1 - torch.outer(w, erase)) + torch.outer(w, add)


# %% tags=["nbval-check-output"]
from seqlab.core import addressing


@holds
def our_head_and_our_write_are_seqlabs():
    M, k, last = randn(5, 4).requires_grad_(), randn(4), randn(5).softmax(-1)
    dials = (
        k,
        randn(1).exp(),
        randn(1).sigmoid(),
        randn(3).softmax(-1),
        1 + randn(1).exp(),
    )
    w = address(M, last, *dials)
    heads = [u[None, None] for u in (last, *dials)]
    w_theirs = addressing.address(M[None], *heads)[0, 0]
    # seqlab adds 1e-8 to squared lengths, so that a row of zeros has a cosine.
    torch.testing.assert_close(w, w_theirs, rtol=0, atol=1e-7)
    erase, add = randn(4).sigmoid(), randn(4)
    ours = write(M, w_theirs, erase, add)
    changes = (u[None] for u in (w_theirs, erase, add))
    theirs = addressing.erase_and_add(M[None], *changes)[0]
    same(with_gradients(ours, M), with_gradients(theirs, M))


# %% [markdown]
# The task is to copy a *list*: four symbols, then four questions, all the same token. Say the symbols again, in order.
# The machine (8 rows of 8 numbers) and an LSTM of the same width 16 train for 200 steps at a learning rate of 0.03.
# Then they get lists of eight.

# %%
from seqlab.mixers import NTM
from seqlab.tasks import Copy


def copier(mixer, seed):
    torch.manual_seed(seed)
    model = LanguageModel(Copy().vocab, 16, [mixer], ffn=None)
    train(model, Copy(4, 4), steps=200, lr=0.03, seed=seed, label="copying a list")
    return model


mixers = {"NTM": partial(NTM, n_rows=8, d_row=8), "LSTM": LSTM}
copiers = {name: [copier(m, s) for s in SEEDS] for name, m in mixers.items()}

# %% tags=["measured"]
held_out = [Copy(4, n).batch(200, torch.Generator().manual_seed(1)) for n in (4, 8)]
print("right answers, seeds 0, 1, 2; guessing gives 25 %")
for name, seeds in copiers.items():
    for batch, n in zip(held_out, (4, 8), strict=True):
        print(f"{name:5} lists of {n}:", *(f"{accuracy(m, batch):5.0%}" for m in seeds))

# %%
tape, list_of_six = copiers["NTM"][0], Copy(4, 6).batch(1, rng).tokens
block = tape.blocks[0]
with torch.no_grad():
    at = block.mixer.run(block.mixer_norm(tape.embedding(list_of_six)))[2][0]
figures.heads(
    [Copy().word(t) for t in list_of_six[0].tolist()],
    at,
    title="A list is written row by row, and the reading head walks the same rows",
)

# %% [markdown]
# *What to see.* The diagonal on the left is the writing head: one symbol, one row, then on to the next. At the first
# question the reading head begins where the list began, and takes the same steps. The machine has learned a program,
# "go on by one", and the program does not depend on the length of the list. The LSTM has to keep the whole list in one
# vector, and what it has learned does not extend to longer lists.
#
# ### Two hops over a story
#
# An **end-to-end memory network** (2015) folds nothing. It keeps every sentence as a vector and asks. One **hop** is
# attention with the course's names: $q = u$, keys and values two embeddings of the same sentences. The answer is added
# to the question, and the next hop asks again:
#
# $$u \leftarrow u + \sum_s p_s\,(E_{k}\,x_s + a_{k,\text{age}}) \qquad
#   p = \mathrm{softmax}_s\; u \cdot (E_{k-1}\,x_s + a_{k-1,\text{age}})$$
#
# $x_s$ counts the words of sentence $s$, and $a$ is a vector for each age, so that newer facts can win.


# %%
def answer(E, ages, question, facts):
    """E (hops + 1, K, D), ages (hops + 1, n, K), facts (n, D), the newest first."""
    u = E[0] @ question
    for k in range(len(E) - 1):
        p = ((facts @ E[k].T + ages[k]) @ u).softmax(0)
        u = u + (facts @ E[k + 1].T + ages[k + 1]).T @ p
    return E[-1].T @ u


# %% tags=["nbval-check-output"]
from seqlab.mixers import MemoryNetwork


@holds
def our_network_is_seqlabs():
    layer, x = MemoryNetwork(6, n_hops=3, n_memory=8).double(), randn(1, 9, 6)
    ours = answer(layer.E, layer.ages, x[0, -1], x[0, :-1].flip(0))
    leaves = layer.E, layer.ages
    same(with_gradients(ours, *leaves), with_gradients(layer(x)[0][0, -1], *leaves))


# %% [markdown]
# The stories: persons go to places and take things, and the question is where a thing is. That needs two facts: who
# took it, and where that person went last. Networks of one and of two hops train for 200 steps at a rate of 0.05.

# %%
from torch.nn import functional as F

from seqlab.tasks import Stories

stories = Stories(n_moves=5)


class Reader(torch.nn.Module):
    """A memory network over sentences: each is the count of its words."""

    def __init__(self, n_hops):
        super().__init__()
        sizes = {"n_hops": n_hops, "d_head": 20, "n_memory": 7, "init": 0.3}
        self.memory = MemoryNetwork(stories.vocab, **sizes)

    def forward(self, tokens):
        return self.memory(F.one_hot(tokens, stories.vocab).sum(-2).float())


def reader(n_hops, seed):
    torch.manual_seed(seed)
    model = Reader(n_hops)
    train(model, stories, steps=200, lr=0.05, seed=seed, label=f"{n_hops} hops")
    return model


readers = {hops: [reader(hops, s) for s in SEEDS] for hops in (1, 2)}

# %% tags=["measured"]
told = stories.batch(500, torch.Generator().manual_seed(1))
for hops, seeds in readers.items():
    print(f"hops: {hops}, right:", *(f"{accuracy(m, told):.0%}" for m in seeds))

# %% tags=["measured"]
pages = {}
for n in range(6):
    tokens_n = told.tokens[n : n + 1]
    counts = F.one_hot(tokens_n, stories.vocab).sum(-2).float()
    with torch.no_grad():
        y, _, weights = readers[2][0].memory.run(counts)
    *facts, question = (stories.sentence(words) for words in tokens_n[0].tolist())
    looks = weights[0, -1].flip(-1).T[-len(facts) :]  # the oldest first
    said = stories.words[int(y[0, -1].argmax())]
    pages[str(n)] = (facts, looks, question, said)
figures.stories(pages)

# %% [markdown]
# *What to see.* Each column is a hop. The first hop finds the sentence in which the thing was taken. With that person
# now part of the question, the second finds where the person went last. One hop cannot do this: it
# would have to compare the sentences with a person whom it does not know yet. The start matters here, too. Our vectors
# start three times as large as the paper's. With the paper's start, two hops learned no more than one in trials of up
# to 600 steps.
#
# ### Choosing among one's own states
#
# The last step is small. Keep the LSTM, keep *all its outputs*, and let each $h_t$ choose among those before it. This
# is **attention-based memory selection** (2016). Two selections $a, b = \sigma(\text{linear in } h_t)$ say which
# channels are compared and which are read:
#
# $$p_i = \mathrm{softmax}_{i < t} \sum_d a_d\, h_{i,d}\, (K h_t)_d \qquad
#   y_t = O\,\bigl[h_t,\; b \textstyle\sum_i p_i h_i\bigr]$$


# %%
def choose(layer, hs):
    """All outputs from the LSTM's (T, D)."""
    ys = []
    for t, h in enumerate(hs):
        a, b = layer.select(h).sigmoid().chunk(2)
        p = (hs[:t] @ (a * layer.key(h))).softmax(0)
        ys.append(layer.out(torch.cat([h, b * (p @ hs[:t])])))
    return torch.stack(ys)


# %% tags=["nbval-check-output"]
from seqlab.mixers import AMSRN


@holds
def our_selection_is_seqlabs():
    layer, x, zero = AMSRN(6).double(), randn(1, 9, 6).requires_grad_(), randn(6) * 0
    weights = layer.W.weight, layer.R.weight, layer.W.bias
    ours = choose(layer, lstm(*weights, x[0], zero, zero)[0])
    leaves = x, *weights, layer.key.weight, layer.select.weight
    same(with_gradients(ours, *leaves), with_gradients(layer(x)[0][0], *leaves))


# %% [markdown]
# Its LSTM starts as PyTorch starts it, the one that only guessed. Same task, 200 blanks, same budget:

# %% tags=["measured"]
choosers = [copied(AMSRN, 200, s) for s in SEEDS]
print("right:", *(f"{share:.0%}" for _, share in choosers))
long_text = DelayedCopy(4, 200).batch(1, torch.Generator().manual_seed(1)).tokens
looked = {}
for seed, (model, _) in enumerate(choosers):
    block = model.blocks[0]
    with torch.no_grad():
        chosen = block.mixer.run(block.mixer_norm(model.embedding(long_text)))[2]
    looked[f"seed {seed}"] = chosen[0, -1, :-1]
figures.looks_back(
    looked, title="After 200 blanks, each network looks at one state: the first"
)

# %% [markdown]
# *What to see.* The weights of the last token on all states before it. Nearly all of the weight is on state 0, right
# after the symbol was read. The gradient takes the same way: from the question to state 0 in *one* step, not through
# 200 Jacobians. That is what attention gives a recurrent network, and at the price of chapter 01: the memory grows with
# each token. And the states still wait for one another. A year later the transformer kept the
# attention and dropped the recurrence. This course goes on with the other choice: keep a recurrence, and drop the tanh.
#
# Six memories, on the same text:

# %%
from seqlab import figures as course_figures
from seqlab.microscope import observe
from seqlab.zoo import ZOO

letters = list("abcabdabeabf")
embedded = randn(26, 16).float()[[ord(letter) - ord("a") for letter in letters]][None]
torch.manual_seed(0)
rows = {row.name: row for row in ZOO if row.chapter == 2}
traces = {name: observe(row.make(16), embedded, letters) for name, row in rows.items()}


def memory(mixer="LSTM", t=11):
    return course_figures.microscope(traces[mixer], t)


explore(memory, mixer=list(traces), t=(0, 11))

# %% [markdown]
# *What to see.* Choose an architecture and move through the tokens. In the Elman RNN every number of the state changes
# at every token. In the LSTM and the GRU (untrained) most change, too: their gates are half open. A Neural Turing
# Machine changes the rows where its head is. A memory network and memory selection only append; nothing in them is ever
# overwritten.
#
# ## 7 · In the wild
#
# Google's translator of 2016 ([GNMT](https://arxiv.org/abs/1609.08144)) was one of the largest of the line: eight LSTM
# layers of 1,024 cells in its decoder, with attention over the source. How would such states look at the size of a
# model of today?

# %% tags=["nbval-check-output"]
from seqlab.zoo import RECIPES

sizes = {row.name: row.published for row in RECIPES}
llama, hawk = sizes["Transformer 2026"]["Llama 3.1 8B"], sizes["Hawk"]["7B"]
D, L = llama["d_model"], llama["n_layers"]
per_token = 2 * L * llama["n_kv_heads"] * D // llama["n_heads"] * 2
print(f"GNMT's decoder: {8 * rows['LSTM'].state_floats(1, 1024) * 4 / 2**10:,.0f} KiB")
for name in ("LSTM", "GRU"):
    state = L * rows[name].state_floats(1, D) * 4
    print(f"{L} layers of {D:,} {name} cells: {state / 2**20:.2f} MiB", end=", ")
    print(f"like {state / per_token:.0f} tokens of Llama 3.1 8B's cache")
print(f"Hawk 7B: {hawk['n_layers'] * hawk['lru_width'] * 4 / 2**20:.2f} MiB")

# %% [markdown]
# States are in float32, the cache in bfloat16. Hawk is a language model of 2024 with no attention at all; its gates
# see $x_t$ only, so its recurrence is linear and can be scanned (chapter 11). The LSTM itself came back in 2024 as
# xLSTM (chapter 10), and one of its two kinds of layers drops the tanh. All of these states are tiny, as large as a few
# tokens of a cache. What a state of that size cannot hold is the subject of chapter 19.
#
# ### Fact check
#
# **"The LSTM of 1997 has a forget gate."** It does not: its cell never forgets. The gate is from
# [Gers, Schmidhuber and Cummins, 2000](https://doi.org/10.1162/089976600300015015).
#
# **"The GRU's reset gate multiplies the state."** In the paper it does, *before* the matrix: $R\,(r\,h)$. PyTorch and
# cuDNN multiply *after* it: $r\,(R h + b')$. Weights of one give other outputs in the other.
#
# **"An LSTM solves the vanishing gradient."** It offers a path. Whether the path is open depends on the bias of the
# forget gate, as section 3 measured, and PyTorch starts it near 0.
#
# **"A nonlinear recurrence cannot be computed in parallel."** Not by merging steps. But it can be solved by
# *iteration*: guess all states, linearise, solve the linear recurrence by a scan, repeat
# ([DEER](https://arxiv.org/abs/2309.12252)). Each round costs a scan with full matrices, and the number of rounds
# depends on the weights.
#
# ## 8 · Practise
#
# In a terminal, `seqlab start 02` puts your own copy of the exercises into `work/`.

# %% [markdown] tags=["exercises"]
# The table of exercises is made from their files.

# %% [markdown]
# The notebook is [exercises/02_recurrent_networks.ipynb](../exercises/02_recurrent_networks.ipynb); work on the copy in
# `work/`.
#
# ## Recap, in five lines
#
# 1. A gradient through time is a product of Jacobians. If the largest singular value of $R$ is below 1, it vanishes;
#    above 1, it may explode.
# 2. The LSTM's cell is a sum, scaled by a forget gate. On our task it learned 200 blanks only if its gates started
#    nearly open to the past and nearly shut to the input.
# 3. A forget gate is a decay: with its gates given, the cell is the linear recurrence of chapters 03 to 05.
# 4. Linear steps merge into one step of the same form, steps with tanh do not. So an RNN needs T rounds for T tokens.
# 5. Attention began as a memory for recurrent networks: rows of a tape, sentences of a story, one's own past states. A
#    lookup gives the gradient a way of one step, and it costs a memory that grows.
#
# Next, chapter 03: drop the tanh, keep the sum.
#
# ## Further: where to start a gate
#
# The pair "forget 5, input -5" is a case of a rule. A gate of bias $\ln(T - 1)$ has $1 - f = 1/T$: it forgets in about
# $T$ steps. Tallec and Ollivier's [chrono initialisation](https://arxiv.org/abs/1804.11188) draws a $T$ for each cell,
# uniform between 2 and the longest gap expected, sets $b_f = \ln(T - 1)$ and $b_i = -b_f$. So some cells start short
# and some long. Chapters 05 and 06 find the same medicine twice more: spread the half-lives from the start.
#
# ## References
#
# - J. Elman. [*Finding Structure in Time.*](https://doi.org/10.1207/s15516709cog1402_1) 1990.
# - S. Hochreiter, J. Schmidhuber. [*Long Short-Term Memory.*](https://doi.org/10.1162/neco.1997.9.8.1735) 1997.
# - F. Gers, J. Schmidhuber, F. Cummins. [*Learning to Forget.*](https://doi.org/10.1162/089976600300015015) 2000.
# - R. Pascanu, T. Mikolov, Y. Bengio. [*On the difficulty of training Recurrent Neural
#   Networks.*](https://arxiv.org/abs/1211.5063) 2012.
# - K. Cho et al. [*Learning Phrase Representations using RNN Encoder-Decoder*](https://arxiv.org/abs/1406.1078)
#   (GRU). 2014.
# - D. Bahdanau, K. Cho, Y. Bengio. [*Neural Machine Translation by Jointly Learning to Align and
#   Translate.*](https://arxiv.org/abs/1409.0473) 2014.
# - A. Graves, G. Wayne, I. Danihelka. [*Neural Turing Machines.*](https://arxiv.org/abs/1410.5401) 2014.
# - S. Sukhbaatar et al. [*End-To-End Memory Networks.*](https://arxiv.org/abs/1503.08895) 2015.
# - D.-R. Liu, S.-P. Chuang, H.-Y. Lee. [*Attention-based Memory Selection Recurrent Network for Language
#   Modeling.*](https://arxiv.org/abs/1611.08656) 2016.
# - Y. Wu et al. [*Google's Neural Machine Translation System*](https://arxiv.org/abs/1609.08144) (GNMT). 2016.
# - C. Tallec, Y. Ollivier. [*Can recurrent neural networks warp time?*](https://arxiv.org/abs/1804.11188) 2018.
# - Y. H. Lim et al. [*Parallelizing non-linear sequential models over the sequence
#   length*](https://arxiv.org/abs/2309.12252) (DEER). 2023.
