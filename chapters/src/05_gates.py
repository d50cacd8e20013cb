# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 · Gates
#
# **After this chapter you can**
#
# - say what a constant decay cannot do, and measure it against a gate;
# - train a decay that the token chooses, and read off what it has learned;
# - write the parallel form of a gate that changes with time, and say why it is kept as a logarithm;
# - explain why a gate for each channel is harder to compute than one for each head, and how blocks solve it;
# - tell nine families of gates apart by one picture;
# - derive one architecture from another, by thirteen identities that run.
#
# **You need** chapters 03 and 04: the state, its three forms, and the decay mask.
#
# **Time** 60 minutes to read, a minute to run.
#
# **Covers** gated retention · GLA · HGRN-2 · GateLoop · DFW · Gated RFA · ABC · GSA.
#
# Chapter 04 forgets everything, a little, all the time. Here each token decides how much is forgotten:
#
# $$S_t = S_{t-1}\, A_t + v_t k_t^\top \qquad\qquad y_t = S_t q_t$$
#
# $A_t$ is the **gate** of token $t$. The architectures of this chapter differ in its shape.
#
# ## 1 · A failure: a constant decay forgets the name as fast as the filler
#
# The task is a text in which little matters. Now and then comes a name; most tokens are filler. At each question mark,
# the *latest* name is asked for.

# %% tags=["nbval-check-output"]
import torch

from seqlab.tasks import Names

torch.set_num_threads(1)
task = Names(n_names=8, n_fillers=8, length=64)
example = task.batch(1, torch.Generator().manual_seed(0))
print(" ".join(task.word(token) for token in example.tokens[0].tolist()))

# %% [markdown]
# In training, one token in eight is a name and one in eight a question. All models have one layer, width 32 and two
# heads, and are trained three times, with seeds 0, 1 and 2: 150 steps, learning rate 0.01. Guessing scores 1 in 8. The
# rotation of chapter 04 is switched off in all of them, so that they differ in the decay alone.
#
# - **RetNet's constants**: half-lives 22 and 44.
# - **A learned constant**: one number per head, which training may choose.
# - **A gate**: one number per head, which the *token* chooses: $\gamma_t = \sigma(w \cdot x_t)$.

# %%
from functools import partial

from torch import nn

from seqlab.mixers import GatedRetention, RetNet
from seqlab.model import LanguageModel
from seqlab.train import train

SEEDS = (0, 1, 2)
gate = partial(GatedRetention, n_heads=2, form="parallel")


def learned_constant(d_model):
    """A gate with w = 0 for good: a bias is left, the same for every token."""
    mixer = gate(d_model, tau=1.0)
    mixer.decay = nn.Linear(d_model, 2)
    nn.init.zeros_(mixer.decay.weight).requires_grad_(False)
    nn.init.zeros_(mixer.decay.bias)
    return mixer


def trained(name, mixer, seed, turn=0):
    torch.manual_seed(seed)
    model = LanguageModel(task.vocab, 32, [mixer], ffn=None)
    inside = model.blocks[0].mixer
    inside.theta = turn * inside.theta  # angles of the rotation: 0 turns nothing
    train(model, task, steps=150, batch_size=16, lr=0.01, seed=seed, label=name)
    return model


retnet = partial(RetNet, n_heads=2, expand_v=1, form="parallel")
mixers = {
    "RetNet's constants": retnet,
    "a learned constant": learned_constant,
    "a gate": partial(gate, tau=1.0),
}
models = {name: [trained(name, m, s) for s in SEEDS] for name, m in mixers.items()}

# %% [markdown]
# Now names get rarer: one token in 48, in texts of 320 tokens. The latest name is often much older than in training.
# **Before you read on**, commit to an answer:

# %% tags=["measured"]
from seqlab.course import predict
from seqlab.figures import retention
from seqlab.train import accuracy_by, evaluate

STEPS = [1, 2, 4, 8, 16, 32, 64, 128, 256]
rare = Names(names=1 / 48, length=320)


def right_by(what, texts, steps, models=models):
    """Right answers by `what`, "age" or "gap": up to steps[0], steps[1], … tokens."""
    curves = {}
    for name, runs in models.items():
        curves[name] = (steps, [])
        for model in runs:
            batch, right = evaluate(model, texts, n=20_000 // texts.length)
            tokens = getattr(batch, what)
            group = torch.bucketize(tokens, torch.tensor(steps))
            group = group.masked_fill(tokens == 0, -1)  # no older name: no gap
            found = accuracy_by(right, batch, group, range(len(steps)))
            curves[name][1].append(found)
    return curves


def against_age():
    return retention.accuracy(
        right_by("age", rare, STEPS),
        title="A constant decay loses the name with its age; a gate keeps it",
        x="age of the latest name in tokens, up to (log scale)",
        chance=1 / 8,
        log=True,
        marks={"length of a training text": task.length},
    )


predict(
    "05-age",
    "The latest name is 33 to 64 tokens old. How often is the learned constant right?",
    against_age,
    choices=["nearly always", "about half of the time", "little more than guessing"],
)

# %% [markdown]
# *What to see.* The learned constant is down to guessing: what it has written is gone after some 30 tokens, whatever
# those tokens were. RetNet's longer half-lives keep the name longer, then lose it too. The gate keeps it far beyond
# the length of a training text. (Points are means of three seeds; bars reach from the lowest to the highest.)
#
# Then why did training choose so short a half-life? Look at the texts that it saw. Here the names come thick, and the
# difficulty is the name *before* the latest one:

# %% tags=["measured"]
retention.accuracy(
    right_by("gap", task, STEPS[:6]),
    title="A long half-life confuses a name with the one just before it",
    x="tokens from the name before to the latest, up to (log scale)",
    chance=1 / 8,
    log=True,
)

# %% [markdown]
# *What to see.* When the older name came just before, RetNet's constants are wrong about half of the time. One
# number has two jobs. The latest name weighs $\gamma^{\text{age}}$, so $\gamma$ should be near 1. The name before it
# weighs less by the factor $\gamma^{\text{gap}}$, so $\gamma$ should be small. **No constant does both jobs.** The gate
# does. A good guess above asks what training rewards: telling two names apart, at any price in age.
#
# What has it learned? Each token of the vocabulary sets a decay, so we can simply ask all of them:


# %% tags=["measured"]
from seqlab.figures import gates as figures

kinds = {"names": slice(0, 8), "filler": slice(8, 16), "question": slice(16, 17)}


def decays(model):
    """The log decay that each token of the vocabulary sets (N, H)."""
    block = model.blocks[0]
    x = block.mixer_norm(model.embedding(torch.arange(task.vocab)[None]))
    return block.mixer.project(x)["log_a"][0, :, :, 0].detach()


shown = {name: [decays(m) for m in models[name]] for name in list(models)[1:]}
figures.half_lives(
    shown, kinds, title="The gate closes at names and stays open at filler"
)

# %% [markdown]
# *What to see.* A mark is one token in one head of one model. The constants have one half-life for all: a token or
# two. The gates give a *name* a half-life far below 1, so nothing of the older name is left beside it, and filler one
# of a hundred tokens and more. Time no longer decides what is kept; the text does.
#
# ## 2 · One number per head
#
# This model is **gated retention**, here without its rotation: RetNet, with $\gamma$ replaced by
#
# $$\gamma_t = \sigma(w \cdot x_t)^{1/\tau} \qquad\qquad S_t = \gamma_t\, S_{t-1} + v_t k_t^\top$$
#
# What was written at step $s$ meets every gate after it. Write $a_t = \ln \gamma_t$, and $G_t = a_1 + \dots + a_t$.
# Then
#
# $$y_t = \sum_{s \le t} \Bigl(\prod_{r=s+1}^{t} \gamma_r\Bigr) (q_t \cdot k_s)\, v_s
#       = \sum_{s \le t} e^{\,G_t - G_s}\, (q_t \cdot k_s)\, v_s$$
#
# So chapter 04's mask stays, with $G_t - G_s$ in the place of $(t - s) \ln \gamma$. For one head:


# %%
def recurrent(q, k, v, log_a):
    S, ys = q.new_zeros(v.shape[1], k.shape[1]), []
    for t in range(len(q)):
        S = log_a[t].exp() * S + torch.outer(v[t], k[t])
        ys.append(S @ q[t])
    return torch.stack(ys), S


def mask(log_a):
    G = log_a.cumsum(0)
    later = torch.ones(len(G), len(G)).triu(1).bool()
    return (G[:, None] - G).masked_fill(later, -torch.inf).exp()


def parallel(q, k, v, log_a):
    D = mask(log_a)
    return (q @ k.mT * D) @ v, v.mT @ (D[-1, :, None] * k)


# %% tags=["nbval-check-output"]
import seqlab.core.recurrence as core
from seqlab.course import holds

rng = torch.Generator().manual_seed(0)
T, K, V = 48, 6, 3


def randn(*shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


q, k, v = (randn(T, width).requires_grad_() for width in (K, K, V))


def everything(form, log_a):
    """The reads, the last state, and the gradients of q, k, v and the gate."""
    log_a = log_a.detach().requires_grad_()
    y, S = form(q, k, v, log_a)
    loss = y.sin().sum() + S.cos().sum()
    return y, S, *torch.autograd.grad(loss, (q, k, v, log_a))


def of_seqlab(q, k, v, log_a, form=core.chunkwise):
    log_a = log_a.view(1, T, 1, -1)
    y, S = form(*(u[None, :, None] for u in (q, k, v)), log_a=log_a)
    return y[0, :, 0], S[0, 0]


@holds
def a_gate_that_changes_with_time_has_a_mask_too():
    log_a = nn.functional.logsigmoid(randn(T))
    same(everything(parallel, log_a), everything(recurrent, log_a))
    same(everything(of_seqlab, log_a), everything(recurrent, log_a))


# %% [markdown]
# **Why logarithms?** Because a product of gates leaves the range of floating point numbers while its *ratios* do not.
# Take 2,000 gates of 0.9. How much of token 1,990 is left at token 1,999? It should be $0.9^9$:

# %% tags=["nbval-check-output"]
gates = torch.full((2000,), 0.9)
P, G = gates.cumprod(0), gates.log().cumsum(0)
print(f"0.9⁹                         {0.9**9:.4f}")
print(f"as a ratio of products       {P[1999] / P[1990]:.4f}")
print(f"as a difference of sums      {(G[1999] - G[1990]).exp():.4f}")

# %% [markdown]
# The products have become 0, and 0/0 is not a number. Sums of logarithms only lose digits; where even that matters,
# they are taken from the start of each chunk.
#
# **Why the 1/τ?** At the start $w \cdot x$ is near 0, and $\sigma(0) = \frac12$ would halve the state at every token.
# The power $1/\tau$, with $\tau = 16$ in the paper and in GLA, makes it $2^{-1/16}$: a half-life of 16 tokens from the
# first step on. It also divides the gradient of $a_t$ by 16. On our task that is not a gift:

# %%
slow = {"a gate, τ = 16": [trained("τ = 16", gate, seed) for seed in SEEDS]}

# %% tags=["measured"]
with_tau = shown | {name: [decays(m) for m in runs] for name, runs in slow.items()}
figures.half_lives(
    with_tau, kinds, title="With τ = 16 the gate moves less in the same 150 steps"
)

# %% [markdown]
# *What to see.* With $\tau = 16$ filler still has a half-life of about ten tokens, near where it started, and a name
# one of about 1 (but for a few, which one head lets through). So the start that suits thousands of tokens and a long
# training does not suit a short one. As in chapter 04, such constants come with a length. Our runs with $\tau = 1$ say
# nothing about large models.
#
# ## 3 · One number per channel
#
# One number per head fades all that a head holds. **GLA**, gated linear attention, gives each key channel its own:
#
# $$S_t = S_{t-1}\, \mathrm{diag}(a_t) + v_t k_t^\top \qquad\qquad a_t = \sigma(x_t W_1 W_2 + b)^{1/16}$$
#
# So a token can clear one column of the table and leave the others. The gate has $K$ outputs, and a full matrix for
# them would be as large as those of the keys. $W_1 W_2$ is of **low rank**: $D \times 16$ times $16 \times K$.
#
# The mask, though, is no longer a matrix. Each channel has its own, and the score is a sum over channels:
#
# $$\mathrm{score}_{ij} = \sum_c q_{ic}\, k_{jc}\; e^{\,G_{ic} - G_{jc}} \qquad j \le i$$
#
# There are three ways to compute it. The first is one matrix product, $(q_i e^{G_i}) \cdot (k_j e^{-G_j})$, and it
# overflows, as chapter 04 showed. The second forms the differences first: an array of $C \times C \times K$ numbers
# for each chunk, and no matrix product. The third is GLA's **secondary chunking**: cut the chunk into small blocks.
# Between two blocks, measure both decays from a point between them, the last token before the later block. Then both
# exponents are at most 0, and it *is* a matrix product. Only the blocks on the diagonal need the array.


# %%
def by_factors(q, k, G):
    return ((q * G.exp()) @ (k * (-G).exp()).mT).tril()


def by_array(q, k, G):
    later = torch.ones(len(G), len(G)).triu(1).bool()[..., None]
    between = (G[:, None] - G).masked_fill(later, -torch.inf).exp()  # (C, C, K)
    return torch.einsum("ik, ijk, jk -> ij", q, between, k)


def by_blocks(q, k, G, c=16):
    scores = q.new_zeros(len(q), len(k))
    for start in range(0, len(q), c):
        now, past = slice(start, start + c), slice(0, start)
        R = G[start - 1] if start else torch.zeros_like(G[0])  # between past and now
        earlier = k[past] * (R - G[past]).exp()
        scores[now, past] = (q[now] * (G[now] - R).exp()) @ earlier.mT
        scores[now, now] = by_array(q[now], k[now], G[now])
    return scores


# %% tags=["nbval-check-output"]
@holds
def blocks_and_the_array_give_the_scores_of_seqlab():
    log_a = nn.functional.logsigmoid(randn(T, K))
    for scores in (by_array, by_blocks, partial(by_blocks, c=5)):

        def form(q, k, v, log_a, scores=scores):
            G = log_a.cumsum(0)
            left = (G[-1] - G).exp() * k
            return scores(q, k, G) @ v, v.mT @ left

        same(everything(form, log_a), everything(of_seqlab, log_a))


print("chunks of 128 tokens in float32, q and k of length 1: errors of the scores")
print(f"{'half-life':>9}{'factors':>15}{'array':>15}{'blocks':>15}")
for z in (4, 2, 0, -2):
    G = nn.functional.logsigmoid(z + randn(128, 32)).cumsum(0)
    inputs = [nn.functional.normalize(randn(128, 32), dim=-1) for _ in "qk"] + [G]
    exact, said = by_array(*inputs), []
    for scores in (by_factors, by_array, by_blocks):
        error = (scores(*(u.float() for u in inputs)) - exact).abs().max()
        power = error.log10().ceil()
        said.append(f"below 10^{power:.0f}" if error.isfinite() else "inf or nan")
    life = 0.6931 * 128 / -G[-1].mean()
    print(f"{life:9.1f}" + "".join(f"{words:>15}" for words in said))

# %% [markdown]
# With gentle gates all three are accurate. At a half-life of one token the factors overflow within a chunk of 128, and
# the other two stay accurate. Blocks of 16 need an array of $16 \times 16 \times K$ instead of
# $128 \times 128 \times K$, 64 times smaller; chapter 25 builds the kernel.
#
# The whole layer has what RetNet's had, except for the rotation: no position enters but through the gates.


# %% tags=["nbval-check-output"]
from einops import rearrange

from seqlab.mixers import GLA


def our_gla(layer, x):
    """GLA's forward, in terms of this chapter: only the weights are `layer`'s."""
    gate = nn.functional.logsigmoid(layer.decay(x)) / 16
    q, k, v, log_a = (
        rearrange(u, "b t (h k) -> b h t k", h=layer.n_heads)
        for u in (layer.q(x), layer.k(x), layer.v(x), gate)
    )
    scores = torch.vmap(torch.vmap(by_array))(
        q * q.shape[-1] ** -0.5, k, log_a.cumsum(2)
    )
    y = scores @ v
    y = (
        y
        / (y.square().mean(-1, keepdim=True) + layer.norm.eps).sqrt()
        * layer.norm.weight
    )
    return layer.out(
        nn.functional.silu(layer.g(x)) * rearrange(y, "b h t v -> b t (h v)")
    )


@holds
def our_layer_is_the_layer_of_seqlab():
    layer, x = GLA(32, n_heads=4).double(), randn(2, 50, 32)
    answers = []
    for y in (our_gla(layer, x), layer(x)[0]):
        answers.append((y, *torch.autograd.grad(y.sin().sum(), [*layer.parameters()])))
    same(*answers)


# %% [markdown]
# ## 4 · The table of gates
#
# Any gate that acts on each cell of the state by itself is a table $G_t$ of the state's size, and
# $S_t = G_t \odot S_{t-1} + \text{write}$. All that follow have rank one, $G_t = \alpha_t \beta_t^\top$: a number for
# each row, which is a value channel, times a number for each column, which is a key channel. What tells them apart:
#
# | | the gate | the write | so it can |
# |---|---|---|---|
# | RetNet | one constant | all | nothing that depends on the token |
# | gated retention | one number a head | all | forget at a name |
# | Mamba-2 | the same, $e^{\Delta_t A}$ | $\Delta_t$ | pass over a token: $\Delta_t = 0$ neither fades nor writes |
# | Gated RFA | the same, $g_t$ | $1 - g_t$ | ignore filler; its state stays an average |
# | mLSTM | one number a head | any strength $e^{i_t}$ | write strongly *without* forgetting |
# | GLA, RWKV-6 | one a column | all | clear one key and keep the rest |
# | HGRN-2 | one a column, $a_t$ | $1 - a_t$, in the place of the key | do with no key at all |
# | DFW | rows and columns | all | fade single values, too |
# | GateLoop | one a column, complex | all | turn: count distances that the text chooses |
# | ABC | one a slot: a running mean | the share of this token | average all that went into a slot |
# | GSA | one a slot, $a_t$ | $1 - a_t$ | replace what is in a slot |
#
# The last two keep **slots**, of which section 5 treats. One picture for all of them, for a state of 4 × 4 and the
# text `ab··a··c`. A letter belongs to the row and column of its name:

# %%
figures.families()

# %% [markdown]
# *What to see.* Move the slider, and compare neighbours. Above is the gate of each token, 1 where nothing is
# forgotten; below, how much of each token's write is left in the end. RetNet fades to the left, whatever the letters
# are. With one number per head, a letter wipes out all that came before. With one per column, the second `a` clears
# column a and leaves the others as they were. HGRN-2 writes only where it forgets. GateLoop's colours change sign: what
# was written comes back turned. In a running notebook, write a text of your own:

# %%
import ipywidgets

from seqlab.widgets import explore

explore(
    figures.family_at,
    family=list(figures.FAMILIES),
    dial=(0.0, 1.0, 0.05),
    text=ipywidgets.Text("ab··a··c"),
)

# %% [markdown]
# *What to see.* The dial sets how far a letter closes its gate: at 0 no letter does anything, at 1 it clears what it
# reaches. For GateLoop it is the speed of the turn, for mLSTM the strength of a letter's write, for ABC a letter's
# pull on its own slot. For RetNet it is the constant.
#
# ## 5 · Slots instead of keys
#
# ABC and **GSA** ask another question: must the memory be addressed by key *channels*? Take $M$ slots. Two tables grow
# with the text, one of keys $\tilde K$ and one of values $\tilde V$, a row for each slot. The token decides how much
# of each slot is replaced; reading is then plain softmax attention, over $M$ slots instead of $T$ tokens:
#
# $$\tilde K_t = \mathrm{diag}(a_t)\, \tilde K_{t-1} + (1 - a_t)\, k_t^\top \qquad
#   \tilde V_t = \mathrm{diag}(a_t)\, \tilde V_{t-1} + (1 - a_t)\, v_t^\top \qquad
#   y_t = \tilde V_t^\top\, \mathrm{softmax}(\tilde K_t q_t)$$


# %% tags=["nbval-check-output"]
from seqlab.mixers import GSA


def our_gsa(layer, x):
    """GSA's forward, token by token: only the weights are `layer`'s."""
    maps = (layer.q, layer.k, layer.v)
    q, k, v = (
        nn.functional.silu(W(x)).unflatten(-1, (layer.n_heads, -1)) for W in maps
    )
    keep = torch.sigmoid(layer.decay(x)) ** (1 / layer.tau)
    keep = keep.unflatten(-1, (layer.n_heads, -1))[..., None]  # (B, T, H, M, 1)
    keys, values, ys = 0, 0, []
    for t in range(x.shape[1]):
        a = keep[:, t]
        keys = a * keys + (1 - a) * k[:, t, :, None]  # (B, H, M, K)
        values = a * values + (1 - a) * v[:, t, :, None]
        weights = (keys @ q[:, t, ..., None]).softmax(-2)  # over the slots
        ys.append((values.mT @ weights)[..., 0].flatten(1))
    return layer.out(layer.norm(nn.functional.silu(torch.stack(ys, dim=1))))


@holds
def two_tables_and_a_softmax_are_the_gsa_of_seqlab():
    layer, x = GSA(32, n_heads=4, n_slots=6).double(), randn(2, 30, 32)
    same(our_gsa(layer, x), layer(x)[0])


# %% [markdown]
# Each table is a gated memory of this chapter, with the slots as its rows or its columns. So every form that we know
# applies, twice, with a softmax between.
#
# ## 6 · Thirteen identities
#
# The architectures are not thirteen inventions. Change one thing in the first, and it *is* the second, weight for
# weight. Each claim below is a function of ten lines in `seqlab.zoo.identities`; here they are run, and an arrow is
# drawn only where both sides agreed to $10^{-9}$.

# %% tags=["nbval-check-output"]
import inspect

from seqlab.zoo.identities import IDENTITIES

proven = []
for identity in IDENTITIES:
    same(*identity.claim(randn(2, 19, 32)))
    proven.append((identity.general, identity.change, identity.special))
    print("holds:", identity.claim.__name__.replace("_", " "))
figures.identities(proven)

# %% [markdown]
# *What to see.* Follow the arrows from any name down. GLA is in the middle: two others become GLA by one change, and
# one change makes GLA any of three others. On the right, the slots lead to softmax attention: with a slot for every
# token, nothing needs to be merged. To read a proof, print it:

# %% tags=["nbval-check-output"]
print(inspect.getsource(IDENTITIES[0].claim))

# %% [markdown]
# ## 7 · The same text in eight memories
#
# All eight modules of this chapter, untrained, read the same tokens:

# %%
from seqlab import figures as course_figures
from seqlab.microscope import observe
from seqlab.zoo import ZOO

rows = [row for row in ZOO if row.chapter == 5]
letters = list("abcabdabeabf")
x = randn(26, 16).float()[[ord(c) - ord("a") for c in letters]][None]
torch.manual_seed(0)
traces = {row.name: observe(row.make(16), x, letters) for row in rows}


def memory(architecture="GLA", t=11):
    return course_figures.microscope(traces[architecture], t)


explore(memory, architecture=list(traces), t=(0, 11))

# %% [markdown]
# *What to see.* Choose an architecture, then move through the tokens. The half-lives at the bottom move with the
# token, where they were fixed in chapter 04: one bar per head for gated retention and Gated RFA, one per channel for
# GLA and HGRN-2. HGRN-2, GateLoop and Gated RFA start with half-lives of about one token: nothing in them corresponds
# to $\tau$. DFW, ABC and GSA decay on two sides, so the microscope looks at the derivatives of their output instead.
#
# ## 8 · In the wild
#
# Three published models with one gate per head. Their sizes are the zoo's; each is built without numbers and asked for
# what its recurrence reads:

# %% tags=["nbval-check-output"]
from seqlab.mixers import Mamba2
from seqlab.zoo import RECIPES

recipes = {recipe.name: recipe for recipe in RECIPES}
llama = recipes["Transformer 2026"].published["Llama 3.1 8B"]
d_head = llama["d_model"] // llama["n_heads"]
per_token = llama["n_layers"] * llama["n_kv_heads"] * 2 * d_head * 2  # bytes of cache

gated = {"YOCO": GatedRetention, "Bamba": Mamba2, "Codestral Mamba": Mamba2}
print(f"{'':20} layers   gates a token   state   like Llama 3.1 8B's cache of")
for name, kind in gated.items():
    size, sizes = next(iter(recipes[name].published.items()))
    layers = [m for m in recipes[name].full(size).modules() if isinstance(m, kind)]
    u = layers[0].project(torch.empty(1, 1, sizes["d_model"], device="meta"))
    (H, K), V = u["q"].shape[2:], u["v"].shape[-1]
    size_in_bytes = 4 * len(layers) * H * K * V
    print(f"{name + ' ' + size:20} {len(layers):6} {len(layers) * H:15,}", end="")
    print(
        f" {size_in_bytes / 2**20:5.0f} MiB   {size_in_bytes / per_token:5,.0f} tokens"
    )

# %% [markdown]
# (States in float32, caches in bfloat16. Only layers with such a memory count; YOCO and Bamba have softmax attention in
# others.) The last two are built of Mamba-2, chapter 07. A gate per channel is RWKV-6's (chapter 09) and that of Kimi's
# KDA (chapter 08). And the modules of this chapter, one layer of each at width 2,048 with 16 heads:

# %% tags=["nbval-check-output"]
from seqlab.mixers import ABC, DFW, HGRN2, GatedRFA, GateLoop

WIDTH, HEADS = 2048, 16
with torch.inference_mode():
    for make in (GatedRetention, GLA, HGRN2, GateLoop, DFW, GatedRFA, ABC, GSA):
        _, state = make(WIDTH, HEADS)(torch.zeros(1, 1, WIDTH))
        parts = state if isinstance(state, tuple) else (state,)
        numbers = sum(u.numel() for u in parts if isinstance(u, torch.Tensor))
        print(f"{make.__name__:16} {numbers:9,} numbers")

# %% [markdown]
# The kind of gate hardly matters for the size: most hold $D^2/H$ numbers. GLA's keys are half as wide, GateLoop's
# numbers are complex, and ABC and GSA have as many as their slots need.
#
# ### Fact check
#
# **"Gates for linear attention began with gated retention, or with Mamba-2."** Both are of 2024. Gated RFA had one
# number per head, chosen by the token, in 2021, and its paper already compares it with the gate of an LSTM.
#
# **"GLA norms each head by LayerNorm."** So the paper says; the authors' code uses an RMS norm.
#
# **"HGRN-2 has no keys, so it has fewer abilities than GLA."** By the graph above it is GLA with a key tied to the
# gate. It saves a matrix, and since each channel writes only the share that it forgets, no entry of the state
# grows beyond the largest value written.
#
# ## 9 · Practise
#
# In a terminal, `seqlab start 05` puts your own copy of the exercises into `work/`.

# %% [markdown] tags=["exercises"]
# The table of exercises is made from their files.

# %% [markdown]
# The notebook is [exercises/05_gates.ipynb](../exercises/05_gates.ipynb); work on the copy in `work/`.
#
# ## Recap, in five lines
#
# 1. A constant decay has two jobs, to keep a name and to drop the older one, and fails at one of them. A gate chosen by
#    the token forgets at a name and rests at filler.
# 2. With a gate that changes, the mask is $e^{G_t - G_s}$, $G$ a running sum of logarithms: differences first.
# 3. A gate for each channel makes the mask three-dimensional. Blocks turn all but its diagonal into matrix products.
# 4. Every gate here is $\alpha_t \beta_t^\top$. They differ in what is one number, what is many, and whether the write
#    is tied to what is forgotten.
# 5. Thirteen identities connect them. None of them can overwrite one key's value without touching others in its column:
#    that is chapter 08.
#
# Next, chapter 06: why a gate, at first, sees no further than its half-life, and what to start from instead.
#
# ## Further: what the rotation would have done
#
# Section 1 switched the rotation off. With it, the same constants look quite different:

# %%
stopped = torch.ones(8).index_fill(
    0, torch.tensor([2]), 0
)  # all pairs turn but the third
turning = {
    "no rotation": models["RetNet's constants"],
    "rotation": [trained("rotation", retnet, seed, 1) for seed in SEEDS],
    "third pair stopped": [trained("stopped", retnet, seed, stopped) for seed in SEEDS],
}

# %% tags=["measured"]
retention.accuracy(
    right_by("age", Names(names=1 / 48, length=160), [*range(8, 129, 8)], turning),
    title="With the rotation, the same name is lost at one age and found at another",
    x="age of the latest name in tokens, within 8 tokens below",
    chance=1 / 8,
)

# %% [markdown]
# *What to see.* Around 40 tokens the rotated model does worse than guessing; around 80 it has the name again. A decay
# cannot do that. RetNet's third pair of channels turns once in $2\pi / 10000^{-2/7} \approx 87$ tokens: at half of that
# its part of the score has the opposite sign, after a full turn it is back. Stop this one pair, and the recovery is
# gone. The loss at 40 stays, so this pair does not explain it; but without any rotation it is not there. Either way, a
# comparison of decays with the rotation on would have blamed the decay for what angles do.
#
# ## References
#
# - H. Peng et al. [*Random Feature Attention.*](https://arxiv.org/abs/2103.02143) 2021.
# - H. Peng et al. [*ABC: Attention with Bounded-memory Control.*](https://arxiv.org/abs/2110.02488) 2021.
# - H. Mao. [*Fine-Tuning Pre-trained Transformers into Decaying Fast Weights.*](https://arxiv.org/abs/2210.04243) 2022.
# - T. Katsch. [*GateLoop: Fully Data-Controlled Linear Recurrence for Sequence
#   Modeling.*](https://arxiv.org/abs/2311.01927) 2023.
# - S. Yang et al. [*Gated Linear Attention Transformers with Hardware-Efficient
#   Training*](https://arxiv.org/abs/2312.06635) (GLA). 2023.
# - Z. Qin et al. [*HGRN2: Gated Linear RNNs with State Expansion.*](https://arxiv.org/abs/2404.07904) 2024.
# - Y. Sun et al. [*You Only Cache Once*](https://arxiv.org/abs/2405.05254) (gated retention). 2024.
# - Y. Zhang et al. [*Gated Slot Attention for Efficient Linear-Time Sequence
#   Modeling*](https://arxiv.org/abs/2409.07146) (GSA). 2024.
# - M. Beck et al. [*xLSTM: Extended Long Short-Term Memory*](https://arxiv.org/abs/2405.04517) (mLSTM). 2024.
