# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 13 · Test-time training
#
# **After this chapter you can**
#
# - read a recurrent state as a model that is trained while it reads, and say what its loss, its step size and its
#   batch are;
# - derive linear attention, a gated sum and the delta rule from one line, and say in what sense "Mamba is a special
#   case" is true;
# - turn a mini-batch of gradient steps into a few matrix products (the dual form), and say what a batch costs;
# - build TTT-Linear with all its parts, and find out why a trained layer does not learn across its mini-batches;
# - say what a deeper inner model (TTT-MLP), momentum and forgetting (Titans) add.
#
# **You need** chapter 03 (linear attention), chapter 05 (gates) and chapter 08 (the delta rule).
#
# **Time** 75 minutes to read, a minute to run.
#
# **Covers** TTT-Linear · TTT-MLP · Titans (with a deep and a linear memory) · Titans MAG.
#
# ## 1 · If the state is a model, what is its learning rate?
#
# Chapter 08 found that a write of the delta rule is a step of gradient descent. Take that literally: the table $S$ is
# a linear model, each token brings it one example, a key $k$ with its value $v$, and $\beta$ is its learning rate.
#
# A model should follow a *rule*. So here are sequences that have one. For the first 64 tokens $v = A k$, with a
# matrix $A$ of 8 × 8 random numbers. Then $A$ is replaced by another matrix. Keys are random directions of length 1.
# Each number of $v$ has the variance 1, and noise of standard deviation 0.3 is added to it. Before each write we ask
# $S$ for the value of the key. How far is the answer from $A k$, without the noise? There are 300 sequences.

# %%
import torch

from seqlab.tasks import ChangingRule

torch.set_num_threads(1)
task = ChangingRule(n_pairs=128, d_key=8, d_value=8, noise=0.3)
k, v, clean, rules = task.pairs(300, torch.Generator().manual_seed(0))


def follow(write, k, v):
    """What S returns for each key before its pair is written; S after each token."""
    S, reads, states = torch.zeros(len(k), v.shape[-1], k.shape[-1]), [], []
    for k_t, v_t in zip(k.unbind(1), v.unbind(1), strict=True):
        found = (S @ k_t[..., None])[..., 0]
        S = S + write(v_t, found)[..., None] * k_t[:, None]
        reads.append(found)
        states.append(S)
    return torch.stack(reads, 1), torch.stack(states, 1)


def error(reads):
    """The squared error per number of v, for each sequence and token."""
    return (reads - clean).square().mean(-1)


seen = torch.arange(128).clamp(min=1)[:, None]  # pairs written so far
reads, sums = follow(lambda v, found: v, k, v)
errors = {"linear attention": error(reads * 8 / seen)}
tables = {}
for beta in (0.1, 0.5, 1.0):
    reads, tables[beta] = follow(lambda v, found, b=beta: b * (v - found), k, v)
    errors[f"step size {beta:g}"] = error(reads)

# %% [markdown]
# **Linear attention** adds all $v k^\top$. If keys point in all directions alike, the sum of $t$ pairs is about
# $t / 8$ times $A$, so its read is divided by that. (In a layer, a norm does it.) The other three are the delta rule
# with $\beta$ = 0.1, 0.5 and 1.
#
# **Before you read on**, commit to an answer:

# %%
from seqlab.course import predict
from seqlab.figures import inner_loop as figures

before = {name: e[:, 48:64].mean().item() for name, e in errors.items()}
after = {name: e[:, 80:96].mean().item() for name, e in errors.items()}
for name in errors:
    print(f"{name:17} before the change {before[name]:.3f}, after it {after[name]:.3f}")
best = min(before, key=lambda name: before[name])
predict(
    "13-rate",
    "Which memory knows the first rule best, just before it changes?",
    lambda: figures.over_time(
        errors,
        title=f"{best.capitalize()} knows the first rule best; the sum does not let go",
        change=64,
        top=3,
    ),
    choices=["linear attention", "β = 0.1", "β = 0.5", "β = 1"],
)

# %% [markdown]
# *What to see.* Lines are means over 300 sequences, bands hold the middle 80 % of them. The numbers above are means
# over the 16 tokens before the change, and over tokens 80 to 95. Linear attention learns the first rule and does not
# let go of it: its table is the mean of all pairs, so at the end it is half of each rule. Step sizes of 0.5 and 1
# recover within some twenty tokens; 0.1 needs far more. The usual guess is $\beta = 1$, since it stores each pair
# exactly. But it stores the noise exactly, too. With 0.1 the noise is averaged out, and 64 tokens are not enough to
# learn the rule. So $\beta$ *is* a learning rate: fast and noisy, or slow and quiet.
#
# Two lines make this exact. Let $D = S - A$ be what the table has wrong, and $\varepsilon$ the noise of a token. One
# write gives $D \leftarrow D\,(I - \beta k k^\top) + \beta\, \varepsilon k^\top$. The first part shortens each row
# of $D$ along $k$; its squared length loses $\beta\,(2 - \beta)\,(D k)^2$, which for keys in all directions is a
# share $\beta\,(2 - \beta) / 8$ of it. The second part adds $\beta^2 \sigma^2$ for each row, where $\sigma^2$ is the
# variance of the noise. A read sees one direction of the eight, so the error per number is an eighth of that squared
# length. Whatever is above the level at which it comes to rest shrinks by the factor $1 - \beta\,(2 - \beta) / 8$
# per token. It rests where loss and gain are equal, at
#
# $$\text{floor} = \frac{\beta}{2 - \beta}\, \sigma^2$$

# %%
from seqlab.widgets import explore


def rate(beta=0.5, noise=0.3):
    """The same keys and rules, with another noise."""
    noisy = clean + noise / 0.3 * (v - clean)
    reads, _ = follow(lambda v, found: beta * (v - found), k[:100], noisy[:100])
    floor, factor = beta / (2 - beta) * noise**2, 1 - beta * (2 - beta) / 8
    said = f"The error falls by {1 - factor:.0%} a token, to {floor:.3f} (dotted)"
    found = {f"β = {beta:.1f}": (reads - clean[:100]).square().mean(-1)}
    return figures.over_time(found, title=said, change=64, top=3, floor=floor)


explore(rate, beta=(0.1, 1.9, 0.1), noise=(0.0, 1.0, 0.1))

# %% [markdown]
# *What to see.* Drag β and the noise: the curve settles on the dotted floor. Above 1 the speed falls again and the
# floor keeps rising, so here no β above 1 is of use. And this is the state itself, in the first sequence:

# %%
scaled = sums[0] * (8 / torch.arange(1, 129))[:, None, None]
figures.rules_over(
    rules[:, 0],
    {"the sum, times 8 / t": scaled, "delta rule, β = 0.5": tables[0.5][0]},
    change=64,
    pages=(1, 8, 16, 32, 64, 68, 72, 80, 96, 128),
)

# %% [markdown]
# *What to see.* Move the slider. The delta rule's table becomes the rule, and then the second rule. The sum becomes
# the first rule too, more slowly, and then a mixture of both.
#
# ## 2 · One line, four layers
#
# **Test-time training** (Sun et al., 2024) takes this as the definition of a layer. There is an *inner model* $f(x;
# W)$, whose weights $W$ are the state. There is an *inner loss* $\ell$. Each token trains the inner model by one
# step, and then asks it:
#
# $$W_t = W_{t-1} - \eta_t\, \nabla \ell(W_{t-1};\, k_t, v_t) \qquad\qquad y_t = f(q_t;\, W_t)$$
#
# The **inner loop** is this line: it runs in every forward pass, in training and at test time, and starts anew with
# every sequence. The **outer loop** is what we always called training. It learns what makes $q$, $k$, $v$ and $\eta$
# of a token, and the first $W_0$. At test time these stay as they are.
#
# Now choose a loss, with $f(x; W) = W x$:
#
# | inner loss | gradient | this is |
# |---|---|---|
# | $-v \cdot W k$ | $-v k^\top$ | linear attention |
# | $-v \cdot W k + \tfrac12 \lambda_t \lVert W \rVert^2$ | $\lambda_t W - v k^\top$ | a sum, gate $1 - \lambda_t$ |
# | $\tfrac12 \lVert W k - v \rVert^2$ | $(W k - v)\, k^\top$ | the delta rule, $\beta = \eta$ |
#
# The first two have the step size 1. The middle row is a weight decay: if the token chooses $\lambda_t$, it is gated
# retention (chapter 05) and Mamba-2 (chapter 07; its Δ is part of $v$). Here is the line, with autograd for the
# gradient:


# %% tags=["nbval-check-output"]
from functools import partial

from torch.func import grad

from seqlab.core.recurrence import recurrent
from seqlab.course import holds


def inner_product(W, k, v, decay):
    return -v @ (W @ k) + decay / 2 * W.square().sum()


def squared(W, k, v, decay):
    return (W @ k - v).square().sum() / 2


def inner_loop(loss, q, k, v, W, eta, decay, b=1):
    """The reads of f(q; W) = W q. The gradients of b tokens are all taken at one W."""
    ys = []
    for t in range(len(k)):
        start = W if t % b == 0 else start
        W = W - eta[t] * grad(loss)(start, k[t], v[t], decay[t])
        ys.append(W @ q[t])
    return torch.stack(ys)


rng = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def with_gradients(f, *inputs):
    y = f(*inputs)
    return y, *torch.autograd.grad(y.sin().sum(), inputs)


def core(q, k, v, W, **gates):
    """The course's recurrence, for one text and one head."""
    q, k, v = (x[None, :, None] for x in (q, k, v))
    gates = {name: gate[None, :, None] for name, gate in gates.items()}
    return recurrent(q, k, v, state=W[None, None], **gates)[0][0, :, 0]


T, ones, none = 16, torch.ones(16).double(), torch.zeros(16).double()
inputs = randn(T, 5), randn(T, 5), randn(T, 3), randn(3, 5)
strength = torch.rand(T, generator=rng, dtype=torch.float64)


@holds
def a_step_on_the_inner_product_is_linear_attention():
    steps = partial(inner_loop, inner_product, eta=ones, decay=none)
    same(with_gradients(steps, *inputs), with_gradients(core, *inputs))


@holds
def with_a_weight_decay_from_the_token_it_is_the_gated_sum_of_mamba_2():
    steps = partial(inner_loop, inner_product, eta=ones, decay=strength)
    gated = partial(core, log_a=(1 - strength).log()[:, None])
    same(with_gradients(steps, *inputs), with_gradients(gated, *inputs))


@holds
def a_step_on_the_squared_error_is_the_delta_rule():
    steps = partial(inner_loop, squared, eta=strength, decay=none)
    delta = partial(core, beta=strength)
    same(with_gradients(steps, *inputs), with_gradients(delta, *inputs))


@holds
def one_batch_from_zero_on_the_squared_error_is_linear_attention_again():
    zero = 0 * inputs[3]
    steps = partial(inner_loop, squared, W=zero, eta=ones, decay=none, b=T)
    sums = partial(core, W=zero)
    same(with_gradients(steps, *inputs[:3]), with_gradients(sums, *inputs[:3]))


# %% [markdown]
# The last theorem is the surprising one. `b` is a **mini-batch**: within it all gradients are taken at the $W$ before
# its first token, and only the steps add up. If the whole sequence is one mini-batch and $W_0 = 0$, then every error
# is $0 - v$, and the squared loss gives linear attention as well. So the delta rule (b = 1) and linear attention (b =
# T) are two ends of one family, and $b$ says how old the $W$ may be at which an error is measured.
#
# ## 3 · The dual form: a mini-batch without its steps
#
# Why would anybody take gradients at an old $W$? Because then they need not wait for each other. Let $W_s$ be the
# weights before the mini-batch; K, V and Q hold its keys, values and queries as rows. All errors are one product,
#
# $$G = K W_s^\top - V \qquad\text{(row } j \text{ is } W_s k_j - v_j\text{)}$$
#
# Call row $j$ of it $g_j$. The gradient of token $j$ is $g_j k_j^\top$, so
# $W_t = W_s - \eta \sum_{j \le t} g_j k_j^\top$. Its read is
# $W_t q_t = W_s q_t - \eta \sum_{j \le t} g_j\,(k_j \cdot q_t)$. The matrices $W_t$ have gone: only dot products are
# left. For all tokens of the batch:
#
# $$Y = Q W_s^\top - \eta\, \mathrm{tril}(Q K^\top)\, G \qquad\qquad W_{s+b} = W_s - \eta\, G^\top K$$
#
# This is the **dual form**. It is chapter 03's chunk with the values replaced by $-\eta G$. Compare chapter 08:
# there the errors depended on each other, and a chunk was a triangular system. Here nothing has to be solved,
# because all errors are measured at $W_s$. That is a different layer, and a cheaper one.


# %% tags=["nbval-check-output"]
def dual(q, k, v, W, eta, b):
    """Mini-batches of b tokens. q, k (..., T, K), v (..., T, V), W (..., V, K)."""
    ys = []
    for Q, K, V in zip(q.split(b, -2), k.split(b, -2), v.split(b, -2), strict=True):
        G = K @ W.mT - V
        ys.append(Q @ W.mT - eta * (Q @ K.mT).tril() @ G)
        W = W - eta * G.mT @ K
    return torch.cat(ys, -2)


@holds
def the_dual_form_takes_the_same_steps():
    for b in (1, 5, 16):
        products = partial(dual, eta=0.3, b=b)
        steps = partial(inner_loop, squared, eta=0.3 * ones, decay=none, b=b)
        same(with_gradients(products, *inputs), with_gradients(steps, *inputs))


# %% tags=["measured"]
from seqlab.figures.state_space import curves
from seqlab.mixers import DeltaNet, LinearAttention, TTTLinear
from seqlab.train import best_seconds


def milliseconds(form, b):
    layer = TTTLinear(256, mini_batch=b, form=form)
    return 1e3 * best_seconds(lambda: layer(long), 4)


long, sizes = torch.randn(1, 512, 256), [1, 4, 16, 64, 256]
times = {}
for form in ("primal", "dual"):
    times[form] = sizes, torch.tensor([milliseconds(form, b) for b in sizes])
ratio = (times["primal"][1] / times["dual"][1])[sizes.index(16)]
curves(
    times,
    title=f"At 16 tokens a mini-batch the dual form is {ratio:.1f} times as fast",
    x="tokens in a mini-batch (log scale)",
    y="milliseconds for 512 tokens",
    log="x",
    markers=True,
)

# %% [markdown]
# *What to see.* The layer of section 4, whole, with four heads of 64 channels, on one core, forward only. The primal
# form takes one step per token whatever the batch. With mini-batches of one token the dual form is no faster. It
# gains as the products grow, until the triangle of $b^2$ dot products begins to cost.
#
# What does the old $W$ cost? The sequences of section 1 again, now by mini-batches. The step of a whole batch is
# $W_{s+b} = W_s\,(I - \eta K^\top K) + \ldots$, so an error along an eigenvector of $K^\top K$ with eigenvalue $\mu$
# is multiplied by $1 - \eta \mu$. It shrinks only if $\eta < 2 / \mu$, and $\mu$ grows with $b$.


# %%
def by_batches(eta, b, n=60):
    """The error before each write: the query is the key, without its own step."""
    W, found = torch.zeros(n, 8, 8), []
    for K, V in zip(k[:n].split(b, 1), v[:n].split(b, 1), strict=True):
        G = K @ W.mT - V
        found.append(K @ W.mT - eta * (K @ K.mT).tril(-1) @ G)
        W = W - eta * G.mT @ K
    return (torch.cat(found, 1) - clean[:n]).square().mean(-1)


# %%
rates = [0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 1.0, 1.3]
found = {}
for b in (1, 4, 16, 64):
    levels = torch.stack([by_batches(eta, b).mean() for eta in rates])
    found[f"b = {b}"] = rates, levels.where(levels < 3, torch.nan)
lows = {name: levels.nan_to_num(99).min().item() for name, (_, levels) in found.items()}
curves(
    found,
    title=f"Larger batches: smaller steps, and a best error of {lows['b = 64']:.2f} "
    f"instead of {lows['b = 1']:.2f}",
    x="step size η (log scale)",
    y="mean error over the sequence",
    log="x",
    markers=True,
)

# %% [markdown]
# *What to see.* Each line is one batch size, averaged over tokens and 60 sequences; points above 3 are not drawn. Up
# to a step of 0.1 the batch hardly matters; then one line after another turns up. The best step gets smaller as $b$
# grows. This is why TTT does not *add* the steps of a mini-batch but nearly averages them: the next section's factor
# $1/i$.
#
# ## 4 · TTT-Linear, whole
#
# **TTT-Linear** adds four things to this line.
#
# 1. The inner model has a bias and a LayerNorm, and the layer adds its input back: $y = q + \mathrm{LN}(W q + c)$,
#    with the bias $c$. So the norm has to produce what is missing between key and value:
#    $\ell = \tfrac12 \lVert \mathrm{LN}(W k + c) - (v - k) \rVert^2$. The norm's own weights belong to the outer
#    loop.
# 2. The token chooses its step size, $\eta_j = \sigma(\theta \cdot x_j) / K$, where $K$ is the width of a head.
#    (`base_lr` in the code is 1 here.)
# 3. The steps of a mini-batch of 16 are nearly averaged. After $i$ tokens of it
#    $W_t = W_s - e_i \sum_{j \le t} \eta_j g_j k_j^\top$, with $e_i = \max(1/i + \text{learned}_i,\ 0)$.
# 4. Keys and queries are rotated by their place in the mini-batch, as by RoPE.
#
# The error now passes through the norm, so $G$ is the gradient by $Z = K W_s^\top + c$. The rest of the dual form
# stays, and the bias adds a 1 to each dot product, as if each key had one more channel with a 1 in it.


# %%
def our_ttt(layer, x):
    """y for x (B, T, D), each token's inner loss, and W after each mini-batch."""
    b, T = layer.mini_batch, x.shape[1]
    place = torch.arange(T) % b
    q, k, v, _ = layer.inputs(x, place, None)
    q, k, v = (u.transpose(1, 2) for u in (q, k, v))  # (B, H, T, K)
    eta = layer.base_lr / q.shape[-1] * layer.eta(x).sigmoid().mT[..., None]
    e = (1 / (place + 1).to(x.dtype) + layer.learned_e[place]).clamp(min=0)[:, None]
    W, bias = layer.first[0][None, :, :, :-1], layer.first[0][None, :, None, :, -1]
    zs, losses, Ws = [], [], [W.expand(len(x), -1, -1, -1)]
    pieces = (u.split(b, -2) for u in (q, k, v, eta, e))
    for Q, K, V, n, e_i in zip(*pieces, strict=True):
        Z = K @ W.mT + bias
        loss = (layer.layer_norm(Z) - (V - K)).square().sum(-1) / 2
        (G,) = torch.autograd.grad(loss.sum(), Z, create_graph=True)
        G = n * G
        zs.append(Q @ W.mT + bias - e_i * ((Q @ K.mT + 1).tril() @ G))
        W, bias = W - e_i[-1] * G.mT @ K, bias - e_i[-1] * G.sum(-2, keepdim=True)
        losses.append(loss)
        Ws.append(W)
    y = (q + layer.layer_norm(torch.cat(zs, -2))).transpose(1, 2).flatten(2)
    return layer.out(layer.norm(y)), torch.cat(losses, -1), torch.stack(Ws, 2)


# %% tags=["nbval-check-output"]
@holds
def our_layer_is_seqlabs_layer_and_so_are_its_gradients():
    layer = TTTLinear(12, 2, mini_batch=4, gate=False).double()
    x, weights = randn(2, 16, 12), list(layer.parameters())
    ours, theirs = (
        (y, *torch.autograd.grad(y.sin().sum(), [x, *weights], allow_unused=True))
        for y in (our_ttt(layer, x)[0], layer(x)[0])
    )
    same([u for u in ours if u is not None], [u for u in theirs if u is not None])


# %% [markdown]
# The gradients of the outer loop pass *through* the inner ones: they contain second derivatives. `create_graph=True`
# asks autograd for them; `seqlab` writes the gradient through the norm out by hand.
#
# ## 5 · Learning to learn
#
# Now train whole layers, one each, width 32, two heads, on the task of section 1 with tokens. There are 32 pairs,
# keys of 4 numbers, values of one number, no noise; the rule changes after 16. Each key is shown first without its
# value (the layer should answer) and then with it. 64 tokens, 150 steps of 16 sequences, learning rate 0.01 (the only
# one tried), seeds 0, 1 and 2. There is no convolution and no output gate.

# %%
from seqlab.model import VectorModel
from seqlab.train import train

small = ChangingRule()
ttt = partial(TTTLinear, n_heads=2, d_conv=None, gate=False)


def trained(mixer, seed):
    torch.manual_seed(seed)
    model = VectorModel(6, 1, 32, [mixer], ffn=None)
    train(model, small, steps=150, batch_size=16, lr=0.01, seed=seed, show=False)
    return model


layers = {
    "linear attention": partial(LinearAttention, n_heads=2, feature_map="identity"),
    "DeltaNet": partial(DeltaNet, n_heads=2, d_conv=1),
    "TTT-Linear, b = 4": partial(ttt, mini_batch=4),
    "TTT-Linear, b = 16": partial(ttt, mini_batch=16),
}
models = {name: [trained(m, s) for s in range(3)] for name, m in layers.items()}


# %% tags=["measured"]
def errors_of(models):
    """The mean squared error at each question, for each seed: (seeds, 32)."""
    batch = small.batch(400, torch.Generator().manual_seed(10_000))
    asked = batch.targets[:, 0::2]
    with torch.no_grad():
        answers = [model(batch.tokens)[0][:, 0::2, 0] for model in models]
    return torch.stack([(a - asked).square().mean(0) for a in answers])


by_layer = {name: errors_of(seeds) for name, seeds in models.items()}
for name, e in by_layer.items():
    print(f"{name:18}", "last 4 questions:", [f"{x:.2f}" for x in e[:, -4:].mean(1)])
figures.over_time(
    by_layer,
    title="Small batches learn both rules; linear attention stays with a mixture",
    change=16,
    middle=1,
    top=2.5,
)

# %% [markdown]
# *What to see.* Lines are means of three seeds, bands reach from the lowest to the highest; the last four questions
# of each seed are printed. DeltaNet and TTT-Linear with mini-batches of 4 learn the second rule as they learned the
# first. Linear attention does not recover. (Training is delicate: in a run of 120 steps, one seed in three with
# mini-batches of 4 was still at an error of 0.9.)
#
# With mini-batches of 16 there is a saw-tooth: 16 tokens are 8 pairs, and after every 8 pairs the error jumps back
# up, with or without a change of rule. Such a layer seems to forget everything at the end of its mini-batch. Why? The
# weight that a mini-batch leaves behind is $W_s - e_{16} \sum \ldots$, so look at the learned $e_{16}$ of seeds 0, 1
# and 2:


# %% tags=["measured"]
def frozen(d_model):
    """The same layer, with e_i = 1/i, not learned."""
    mixer = ttt(d_model, mini_batch=16)
    mixer.learned_e.requires_grad_(False)
    return mixer


models["e fixed"] = [trained(frozen, s) for s in range(3)]
by_layer["e fixed"] = errors_of(models["e fixed"])
SIXTEEN = ("TTT-Linear, b = 16", "e fixed")
for name in SIXTEEN:
    for model, e in zip(models[name], by_layer[name], strict=True):
        last = 1 / 16 + model.blocks[0].mixer.learned_e[-1].item()
        up = (
            e[[8, 24]] - e[[7, 23]]
        ).mean()  # from the 8th pair to the 9th; 24th, 25th
        print(f"{name:18} e_16 = max({last:6.3f}, 0), the error rises by {up:.2f}")
figures.over_time(
    {name: by_layer[name] for name in SIXTEEN},
    title="With 1/i not learned, the error rises less where a mini-batch begins",
    change=16,
    middle=1,
    top=2.5,
)

# %% [markdown]
# *What to see.* Where $1/16 + \text{learned}_{16}$ has become negative, the maximum with 0 makes $e_{16} = 0$:
# nothing of a mini-batch is ever written into $W$. And a maximum passes no gradient where it is closed, so training
# cannot open it again. This is a dead ReLU, in the one place where it switches off the memory. It started at 0.06,
# and at a learning rate of 0.01 some ten steps of the optimiser are enough to cross 0. With $e_i$ held at $1/i$ the
# error rises much less where a mini-batch begins. (Right after the change, the layers that forget are ahead: a fresh
# start is right there. The maximum is the authors', too. They train larger models, and we do not know whether it
# closes there.)
#
# Now look inside a sequence: the inner loss of each token, at the $W$ at which its gradient is taken, and the inner
# weights themselves.

# %% tags=["measured"]
model = models["TTT-Linear, b = 4"][0]
mixer = model.blocks[0].mixer
sample = small.batch(300, torch.Generator().manual_seed(7))
with torch.enable_grad():
    heard = model.blocks[0].mixer_norm(model.embedding(sample.tokens))
    _, losses, Ws = (u.detach() for u in our_ttt(mixer, heard))
pairs = losses[:, :, 1::2]  # tokens that bring a value
drop = {f"head {h}": pairs[:, h] / pairs[:, h, :2].mean() for h in range(2)}
figures.over_time(
    drop,
    title="The inner loss falls as a sequence is read, and again after the change",
    y="inner loss, relative to the first two pairs",
    change=16,
    top=1.6,
)

# %% [markdown]
# *What to see.* 300 sequences through one trained layer whose outer weights do not move. What falls is the inner
# loss. The outer loop never asked for that: it asked for right answers.

# %% tags=["measured"]
figures.weights_moved(Ws[:, :, [0, 8, 16]])

# %% [markdown]
# *What to see.* One head of the first sequence: its first weights $W_0$, which all sequences share, and what each
# rule has changed of them. The title gives the lengths of the changes, averaged over the 300 sequences.

# %%
from seqlab import figures as course_figures
from seqlab.microscope import observe

labels = [word for i in range(16) for word in (f"{i}?", f"{i}")]
traces = {}
for name in ("TTT-Linear, b = 4", "DeltaNet"):
    block = models[name][0].blocks[0]
    heard = block.mixer_norm(models[name][0].embedding(sample.tokens[:1, :32]))
    traces[name] = observe(block.mixer, heard, labels)
explore(
    lambda layer="TTT-Linear, b = 4", t=12: course_figures.microscope(traces[layer], t),
    layer=list(traces),
    t=(0, 31),
)

# %% [markdown]
# *What to see.* The microscope shows TTT-Linear from outside, as all numbers that it keeps: the $W$ at the start of
# the mini-batch stays for four tokens, while the sum of gradients beside it grows; then they are joined. DeltaNet's
# table changes with every token.
#
# ## 6 · A deeper inner model: TTT-MLP
#
# If the state is a model, it need not be linear. **TTT-MLP** uses two layers with a gelu between them, the hidden
# one four times as wide. Each layer has a dual form of its own: its gradient is $g z^\top$ again, with the layer's
# input $z$ in the place of the key. What does depth buy? Take a rule that no matrix can follow, $v = |A k|$ in each
# number. Since it is the same for $k$ and $-k$, all that a matrix with a bias can learn is the mean of each rule. We
# train bare inner models, without any outer loop. (Step 0.1 for both. We tried 0.05, 0.1, 0.2 for the network and
# 0.1, 0.3 for the matrix.)

# %%
bends = figures.bent_rule_errors()
ends = [e[:, -32:].mean().item() for e in bends.values()]
figures.over_time(
    bends,
    title=f"After 256 pairs the matrix is wrong by {ends[0]:.0%}, "
    f"the network by {ends[1]:.0%}",
    y="squared error, relative to answering the mean",
    middle=0.5,
    top=2,
)

# %% [markdown]
# *What to see.* Means of 100 sequences, each with a rule of its own; bands hold the middle half. The matrix settles
# at once, a little above the 78 % that would be left if each rule's mean were known. The network goes on. But it
# needs some hundred pairs where a linear rule needed some twenty, and its state is larger: these are the two prices
# of an expressive state. A trained layer may lower the first: its outer loop learns $W_0$.
#
# ## 7 · Titans: surprise, momentum, forgetting
#
# **Titans** (Behrouz et al., 2025) calls the gradient the *surprise* of a token, and trains its memory $M$ by a
# better optimiser. Three gates come from the token: a step size $\theta$, a momentum $\eta$ (mind the letter: here
# $\eta$ is not the step size), and a forgetting $\alpha$:
#
# $$S_t = \eta_t\, S_{t-1} - \theta_t\, \nabla \lVert M_{t-1}(k_t) - v_t \rVert^2 \qquad\qquad
#   M_t = (1 - \alpha_t)\, M_{t-1} + S_t$$
#
# (This $S$ is the momentum, no longer the table.) A surprise thus acts on the tokens after it as well, and the whole
# memory fades before the write. The loss has no ½, so with $\eta = \alpha = 0$ and a matrix for $M$ this is the
# delta rule with $\beta = 2 \theta$. In the layer $M$ has two layers, and the gradients of a chunk are taken at its
# start, as in TTT. Then only decays are left between them, and both lines become products with decay masks.


# %% tags=["nbval-check-output"]
import torch.nn.functional as F

from seqlab.mixers.titans import chunk


def memory(M, x):
    return M[1] @ F.silu(M[0] @ x)


def our_titans(q, k, v, alpha, eta, theta, M1, M2):
    """One chunk: all gradients at the first M."""
    surprise = grad(lambda M, k, v: (memory(M, k) - v).square().sum())
    start = M = (M1, M2)
    S, ys = (0 * M1, 0 * M2), []
    for t in range(len(k)):
        G = surprise(start, k[t], v[t])
        S = tuple(eta[t] * A - theta[t] * g for A, g in zip(S, G, strict=True))
        M = tuple((1 - alpha[t]) * W + A for W, A in zip(M, S, strict=True))
        ys.append(memory(M, q[t]))
    return torch.stack(ys)


@holds
def two_decay_masks_do_the_same():
    gates = (0.1 * torch.rand(3, 9, 1, generator=rng).double()).requires_grad_()
    data = *(randn(9, 4) for _ in range(3)), *gates.unbind(), randn(8, 4), randn(4, 8)

    def seqlabs(q, k, v, alpha, eta, theta, *M):
        inputs = q, k, v, (1 - alpha).log(), eta.log(), theta
        M = [W[None, None] for W in M]
        none = [0 * W for W in M]
        return chunk(*(u[None, None] for u in inputs), start=M, M=M, S=none)[0][0, 0]

    same(with_gradients(our_titans, *data), with_gradients(seqlabs, *data))


# %% [markdown]
# What do momentum and forgetting do on the sequences of section 1? For a matrix of 8 × 8 the surprise is twice the
# error times the key, so a figure of the error shows the surprise as well. With momentum a constant gradient adds up
# to $\theta / (1 - \eta)$ of itself in the end. We give all three the same effective step,
# $\beta = 2 \theta / (1 - \eta) = 0.5$.


# %%
def optimise(eta=0.0, alpha=0.0, beta=0.5, n=100):
    """The error before each write, with β = 2 θ / (1 - η)."""
    M, S, found = torch.zeros(n, 8, 8), torch.zeros(n, 8, 8), []
    for k_t, v_t in zip(k[:n].unbind(1), v[:n].unbind(1), strict=True):
        read = (M @ k_t[..., None])[..., 0]
        S = eta * S + beta * (1 - eta) * (v_t - read)[..., None] * k_t[:, None]
        M = (1 - alpha) * M + S
        found.append(read)
    return (torch.stack(found, 1) - clean[:n]).square().mean(-1)


tried = {
    "plain steps": optimise(),
    "momentum 0.8": optimise(eta=0.8),
    "forgetting 0.02": optimise(alpha=0.02),
}
for name, e in tried.items():
    soon, late = e[:, 68:76].mean(), e[:, 112:].mean()
    print(
        f"{name:16} soon after {soon:.2f}, at the end {late:.3f}, mean {e.mean():.3f}"
    )
figures.over_time(
    tried,
    title="Forgetting recovers sooner and ends higher; momentum recovers later",
    change=64,
    top=3,
)

# %% [markdown]
# *What to see.* A memory that always forgets 2 % recovers sooner, and pays for it when nothing changes: it is never
# quite at the rule. Momentum, at an equal effective step, is slower here. After the change it first carries on in the
# old direction. These gates are constant. The point of the layer is that the token sets them, for example a large
# $\alpha$ at the first surprise after a change. Turn them yourself:


# %%
def tuned(eta=0.5, alpha=0.02, beta=1.0):
    e = optimise(eta, alpha, beta)
    said = f"The mean error over the whole sequence is {e.mean():.3f}"
    return figures.over_time({"Titans' rule": e}, title=said, change=64, top=3)


explore(tuned, eta=(0.0, 0.95, 0.05), alpha=(0.0, 0.1, 0.01), beta=(0.1, 1.5, 0.1))

# %% [markdown]
# *What to see.* Compare the mean in the title with those printed above. The first setting has a little of each, and
# beats plain steps of 0.5. But with both at 0 and β at 0.7, plain steps do as well: on these sequences, constant
# gates gain little.
#
# A memory of this kind stands beside attention in one of three wirings. **Memory as context** (MAC): the text is cut
# into segments; what the memory returns for a segment is put in front of it as extra tokens, and attention reads
# both. **Memory as gate** (MAG): a window of attention and the memory read the same input, and the memory's output
# gates the attention's. In `seqlab` this is `MemoryAsGate`, Titans MAG. **Memory as layer** (MAL): one after the
# other.
#
# ## 8 · In the wild
#
# The authors of TTT trained models of 125M to 1.3B parameters. Layers of TTT-MLP were put into a video model of 5B
# parameters, so that it makes [one-minute videos](https://arxiv.org/abs/2504.05298).
# [LaCT](https://arxiv.org/abs/2505.23884) found that batches of 16 or 64 tokens often use less than 5 % of a GPU's
# arithmetic, and takes batches of 2,048 tokens to a million. We know of no large open language model that is built of
# such layers. What one layer keeps, at width 256 with four heads of 64:

# %% tags=["nbval-check-output"]
from seqlab.zoo import row

for name in ("DeltaNet", "TTT-Linear", "TTT-MLP", "Titans, linear memory", "Titans"):
    n = row(name).state_floats(1, 256)
    print(f"{name:22} {4 * n / 1024:5,.0f} KiB, like {n / 256:5,.0f} tokens of cache")

# %% [markdown]
# The cache is that of full attention of the same width, keys and values in bfloat16; states are float32. TTT keeps
# $W$ and the sum of the gradients of a started mini-batch; Titans keeps $M$ three times (now, at the start of the
# chunk, and its momentum).
#
# ### Fact check
#
# **"Mamba is a special case of TTT."** Section 2 says in what sense: the *recurrence* of Mamba-2 is one step on an
# inner product with a weight decay that the token chooses. (For Mamba, decay each number of the state separately.)
# The loss is then chosen so that its gradient is the known update, which works for any layer of the form $W
# \leftarrow a W + v k^\top$. It does not make Mamba a layer that lowers an error: this loss has no minimum without
# the decay.
#
# **"TTT changes the model's weights at test time."** Only the state, for one sequence. The outer weights stay.
#
# **"Such a layer works because it memorises."** In 2026 [Liu et al.](https://arxiv.org/abs/2602.21204) reported
# trained layers in which more inner steps made the task worse and a step *up* the gradient did no harm, and read a
# broad class of them as learned linear attention. A small inner loss is not yet a good answer; the open question of
# the exercises is about this.
#
# ## 9 · Practise
#
# In a terminal, `seqlab start 13` puts your own copy of the exercises into `work/`.

# %% [markdown] tags=["exercises"]
# The table of exercises is made from their files.

# %% [markdown]
# The notebook is [exercises/13_test_time_training.ipynb](../exercises/13_test_time_training.ipynb); work on the copy
# in `work/`.
#
# ## Recap, in five lines
#
# 1. The state is a model, a token an example, and a write one step on an inner loss: $W_t = W_{t-1} - \eta \nabla
#    \ell$.
# 2. The inner product gives linear attention, with a weight decay a gated sum; the squared error gives the delta
#    rule.
# 3. With all gradients of a mini-batch at one $W_s$ it needs no steps: $Y = Q W_s^\top - \eta\, \mathrm{tril}(Q
#    K^\top)\, G$. Large batches need smaller steps and follow a changing rule less well.
# 4. In our small runs TTT-Linear with batches of 4 learned a changed rule like DeltaNet; with batches of 16 a closed
#    maximum switched the memory off in some seeds.
# 5. TTT-MLP follows rules that no matrix can, more slowly; Titans adds a momentum and a forgetting to the step.
#
# Next, chapter 14: flash attention.
#
# ## References
#
# - Y. Sun et al. [*Learning to (Learn at Test Time): RNNs with Expressive Hidden
#   States.*](https://arxiv.org/abs/2407.04620) 2024.
# - A. Behrouz, P. Zhong, V. Mirrokni. [*Titans: Learning to Memorize at Test
#   Time.*](https://arxiv.org/abs/2501.00663) 2025.
# - I. Schlag, K. Irie, J. Schmidhuber. [*Linear Transformers Are Secretly Fast Weight
#   Programmers.*](https://arxiv.org/abs/2102.11174) 2021.
# - K. Dalal et al. [*One-Minute Video Generation with Test-Time Training.*](https://arxiv.org/abs/2504.05298) 2025.
# - T. Zhang et al. [*Test-Time Training Done Right*](https://arxiv.org/abs/2505.23884) (LaCT). 2025.
# - K. A. Wang, J. Shi, E. B. Fox. [*Test-Time Regression: A Unifying Framework for Designing Sequence Models with
#   Associative Memory.*](https://arxiv.org/abs/2501.12352) 2025.
# - J. Liu et al. [*Test-Time Training with KV Binding Is Secretly Linear
#   Attention.*](https://arxiv.org/abs/2602.21204) 2026.
