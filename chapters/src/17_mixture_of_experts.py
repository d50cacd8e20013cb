# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 17 · Mixture of experts
#
# **After this chapter you can**
#
# - measure how a router collapses, and say which gradient is to blame;
# - write the routers of 1991, 2017, Switch, Mixtral and DeepSeek-V3 as one function, and name the line in which each
#   differs;
# - keep experts busy by a loss or by a bias, and say what each of them costs;
# - say who is dropped when an expert is full, and why a router must not look ahead;
# - search a million experts with two thousand comparisons;
# - dispatch tokens in three ways, on one process and on several, and count the bytes;
# - compute how much of a published model a token uses.
#
# **You need** chapter 01 (SwiGLU) and softmax. No memory is involved: a mixture acts on each token alone.
#
# **Time** 60 minutes to read, a minute to run.
#
# **Covers** soft mixture of experts · noisy top-k experts · Switch experts (Switch Transformer) · Mixtral experts
# (Mixtral, DBRX, Qwen3 MoE) · DeepSeekMoE and DeepSeek-V3 experts · expert choice · PEER · merging experts · expert
# parallelism.
#
# The feed-forward layers hold most of a transformer's weights, and every token pays for all of them. A **mixture of
# experts** has many such layers, the *experts*, and a *router* that sends each token to a few. The weights grow, the
# cost of a token does not. All of this chapter is about what can go wrong in that one sentence.
#
# ## 1 · A failure: the rich get richer
#
# Our data has eight clusters. Each has a centre, and a linear law $y = A_c\,x$ of its own. Eight linear experts could
# fit them perfectly, one cluster each. The router scores the experts, $p = \mathrm{softmax}(W x)$. The token goes to
# the best, and the output is $p_e\,E_e(x)$: without the factor $p_e$ the router would get no gradient.

# %%
import torch
from torch import nn

from seqlab.ffn import MoE, auxiliary_loss
from seqlab.ffn.routers import Router
from seqlab.tasks import Clusters

torch.set_num_threads(1)  # one thread keeps the timings steady


class Best(Router):
    def __init__(self, d_model, n_experts):
        super().__init__(d_model, n_experts, top_k=1)

    def route(self, x):
        p, expert = self.logits(x).softmax(-1).max(-1, keepdim=True)
        return self.routing(expert, p, {})


def learn(router, seed, n_experts=8, steps=300):
    """The layer, its losses, and who served whom: (steps, clusters, experts)."""
    task, rng = Clusters(seed=seed), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    layer = MoE(8, n_experts, router=router, expert=lambda d, _: nn.Linear(d, d))
    optimiser, losses, who = torch.optim.Adam(layer.parameters(), lr=0.01), [], []
    for _ in range(steps):
        x, y, cluster = task.batch(256, rng)
        loss = (layer(x[None])[0] - y).square().mean()
        optimiser.zero_grad()
        (loss + auxiliary_loss(layer)).backward()
        optimiser.step()
        layer.router.update_bias()
        pair = cluster * n_experts + layer.routing.experts.flatten()
        who.append(torch.bincount(pair, minlength=8 * n_experts).view(8, -1))
        losses.append(loss.item())
    return layer, losses, torch.stack(who).float()


SEEDS = (0, 1, 2)
alone = [learn(Best, seed) for seed in SEEDS]

# %% [markdown]
# **Before you read on**, commit to an answer:

# %% tags=["measured"]
from seqlab.course import predict
from seqlab.figures import experts as figures


def load_of(run):
    who = run[2].sum(1)  # (steps, experts)
    return who / who.sum(1, keepdim=True)


def busy(run):
    """How many experts serve at least 1 % of the tokens at the end."""
    return (load_of(run)[-20:].mean(0) >= 0.01).sum().item()


def show_collapse():
    counts = ", ".join(str(busy(run)) for run in alone)
    shares = {f"seed {seed}": load_of(run)[::5] for seed, run in enumerate(alone)}
    return figures.loads(shares, title=f"Of 8 experts, {counts} still work", every=5)


predict(
    "17-collapse",
    "Eight clusters, eight experts. How many experts still work after 300 steps?",
    show_collapse,
    choices=["all eight", "five to seven", "one"],
)

# %% [markdown]
# *What to see.* Each colour is an expert, its height the share of the tokens. Five to seven is right for these seeds:
# some experts serve two or three clusters, others none. "All eight" hopes that the loss will sort it out: after all,
# two clusters in one linear expert are a bad fit. "One" is the name of the failure, **collapse**, taken literally.
# Why does an idle expert not simply take over one of the crowded clusters? Let $g$ be the gradient of the loss with
# respect to the output $y = p_e E_e(x)$. Then
#
# $$\frac{\partial L}{\partial E_f} = 0 \;\text{ for } f \ne e \qquad
#   \frac{\partial L}{\partial z_f} = p_e\,(\delta_{ef} - p_f)\;(g \cdot E_e(x))$$
#
# An expert that is not chosen learns nothing, so it stays as bad as it was. Its logit $z_f$ moves, but only by what the
# *chosen* expert did: no term asks whether $E_f$ would have been better.

# %% tags=["nbval-check-output"]
from seqlab.course import holds

rng = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


@holds
def an_expert_that_is_not_chosen_learns_nothing():
    z, outputs, g = randn(5), randn(5, 3), randn(3)
    p = z.softmax(-1)
    e = p.argmax()
    to_z, to_outputs = torch.autograd.grad(p[e] * outputs[e] @ g, [z, outputs])
    chosen = torch.eye(5).double()[e]
    same(to_outputs, torch.outer(chosen, p[e] * g))
    same(to_z, p[e] * (chosen - p) * (outputs[e] @ g))


# %% [markdown]
# ## 2 · Four routers, one function
#
# **1991.** The first mixture ([Jacobs et al.](https://doi.org/10.1162/neco.1991.3.1.79)) is *soft*: every expert
# runs, $y = \sum_e p_e E_e(x)$. Nothing starves, and nothing is saved. **2017.** [Shazeer et
# al.](https://arxiv.org/abs/1701.06538) keep only the $k$ largest logits and take the softmax *over those*; noise on
# the logits lets experts of nearly equal score take turns (noisy top-k). **2021.** The [Switch
# Transformer](https://arxiv.org/abs/2101.03961) dares $k = 1$. A softmax over one number is 1, which has no gradient;
# so Switch takes the softmax *first*, over all experts, as we did above. **2024.**
# [Mixtral](https://arxiv.org/abs/2401.04088) takes the best 2, and divides their weights by their sum. The whole
# family, and the layer, in a dozen lines:


# %%
def top_k(logits, k, renormalise):
    weights, experts = logits.softmax(-1).topk(k)
    if renormalise:
        weights = weights / weights.sum(-1, keepdim=True)
    return weights, experts


def one_by_one(x, weights, experts, E):
    """Σ p_e E_e(x): each expert looks for its tokens. weights, experts (N, k)."""
    y = torch.zeros_like(x)
    for e, expert in enumerate(E):
        token, slot = torch.where(experts == e)
        served = weights[token, slot, None] * expert(x[token])
        y = y.index_add(0, token, served)
    return y


# %% tags=["nbval-check-output"]
from functools import partial

from seqlab.ffn import MixtralRouter, NoisyTopKRouter, SoftRouter, SwitchRouter

FAMILY = {
    "soft, 1991": (SoftRouter, 4, False),
    "noisy top-2, without its noise": (NoisyTopKRouter, 2, True),
    "Switch": (partial(SwitchRouter, capacity_factor=None), 1, False),
    "Mixtral": (MixtralRouter, 2, True),
}


def with_gradients(y, x, layer):
    return y, *torch.autograd.grad(y.sin().sum(), [x, *layer.experts.parameters()])


@holds
def four_routers_are_one_function():
    for router, k, renormalise in FAMILY.values():
        layer, x = MoE(6, 4, router=router).double().eval(), randn(1, 30, 6)
        nn.init.normal_(layer.router.score.weight)
        chosen = top_k(layer.router.logits(x[0]), k, renormalise)
        ours = one_by_one(x[0], *chosen, layer.experts)[None]
        same(with_gradients(ours, x, layer), with_gradients(layer(x), x, layer))


@holds
def renormalising_is_a_softmax_over_the_chosen():
    logits = randn(30, 6)
    weights, experts = top_k(logits, 2, True)
    same(weights, logits.gather(-1, experts).softmax(-1))


# %% [markdown]
# The second theorem is why the order of softmax and choice is confused so often: with renormalisation it makes no
# difference, without it it does. The gradient differs too: through Mixtral's weights only the ratio of the chosen
# scores learns, through Switch's their size as well.
#
# ## 3 · Keeping them busy: a loss, or a bias
#
# Let $f_e$ be the share of the tokens that chose $e$, and $P_e$ the mean of $p_e$. **Switch's auxiliary loss** is
#
# $$L_\text{aux} = \alpha\, E \sum_{e=1}^{E} f_e\, P_e$$
#
# which is $\alpha$ if both are even. The counts $f$ have no gradient. $P$ has one: each expert's probability is
# pushed down in proportion to how busy it is. But this gradient has nothing to do with the task, and the router has
# to follow both.
#
# **DeepSeek's loss-free balance** ([2024](https://arxiv.org/abs/2408.15664)) leaves the gradient alone. It adds a bias
# to the scores *for the choice only*. After each step the bias of every expert below the mean load rises by a fixed
# amount, and the others fall. The weights $p$ never see it.


# %%
from seqlab.ffn.routers import balance


class Balanced(Best):
    def __init__(self, d_model, n_experts, alpha=0.0, rate=0.0):
        super().__init__(d_model, n_experts)
        self.coefficients, self.rate = {"balance": alpha}, rate
        self.bias = torch.zeros(n_experts)

    def route(self, x):
        p = self.logits(x).softmax(-1)
        expert = (p.detach() + self.bias).argmax(-1, keepdim=True)
        losses = {"balance": balance(p, expert)}
        self.last = self.routing(expert, p.gather(-1, expert), losses)
        return self.last

    def update_bias(self):
        load = self.last.load.float()
        self.bias += self.rate * (load.mean() - load).sign()


METHODS = {"alone": alone}
for name, options in {"loss": {"alpha": 1.0}, "bias": {"rate": 0.01}}.items():
    METHODS[name] = [learn(partial(Balanced, **options), seed) for seed in SEEDS]


# %% tags=["measured"]
def final(run):
    return sum(run[1][-20:]) / 20


def settled(run):
    """The share of the tokens whose cluster is the main one of their expert."""
    who = run[2][-20:].sum(0)
    return (who.max(0).values.sum() / who.sum()).item()


for name, many in METHODS.items():
    print(f"{name:6}", "loss", "  ".join(f"{final(run):.3f}" for run in many), end="")
    print("   experts at work", *(busy(run) for run in many), end="")
    print("   settled", *(f"{settled(run):.0%}" for run in many))

first = {name: load_of(many[0])[::5] for name, many in METHODS.items()}
title = "Left alone it collapses; a loss or a bias makes the load even (seed 0)"
figures.loads(first, title=title, every=5)

# %% [markdown]
# *What to see.* Both methods keep all eight experts at work, in all three seeds. The bias has the lowest error in all
# three. The loss beats doing nothing in two seeds, but not in the third, although its load is even there. The last
# column says why: a tenth of the tokens go to an expert whose main business is another cluster. This is one task, and
# the strengths are ours: an $\alpha$ of 1 and a rate of 0.01. When we tried others, Switch's own $\alpha = 0.01$
# changed nothing and 0.1 too little; a rate of 0.001 was too slow for 300 steps. The edges of the bias also shiver:
# its steps have a fixed size and never stop.
#
# An even load does not mean that experts have specialised. Who serves whom?

# %% tags=["measured"]
shares = {}
for name, many in METHODS.items():
    who = many[0][2][-20:].sum(0)
    shares[name] = who / who.sum(1, keepdim=True)
figures.tables(
    shares,
    title="Balanced, each expert finds a cluster of its own (seed 0, last 20 steps)",
    x="expert",
    y="cluster",
)

# %% [markdown]
# *What to see.* A row is a cluster, and shows which experts serve it. Left alone, several rows share a column: one
# expert fits two or three laws at once, and that is the error of section 1. With a balanced load the
# table is close to a permutation. It is no accident: clusters are equally large here, so an even load and a good fit
# ask for the same thing. Where the clusters of real data are unequal, they do not.

# %% tags=["measured"]
steps = [0, 5, 10, 20, 40, 80, 150, 290]
who = METHODS["bias"][0][2]
pages = {str(t): who[t : t + 10].sum(0) for t in steps}
figures.flow(pages, title="The bias sorts them")

# %% [markdown]
# *What to see.* Move the slider. Bands run from clusters (left) to experts (right), as wide as their share of the
# tokens, ten steps at a time. At the start one expert takes nearly half of the tokens. The bias then drives them away
# from it, cluster by cluster, until one band leads from each cluster to an expert of its own.
#
# ## 4 · Capacity: who is dropped?
#
# Hardware likes equal shapes, so Switch gives each expert a fixed number of places, $\lceil c N / E \rceil$ for $N$
# tokens and a **capacity factor** $c$. Tokens take places in order. A token that finds its expert full is *dropped*:
# the layer returns 0, and only the residual stream carries that token on. How many is that?

# %% tags=["measured"]
from seqlab.widgets import explore

LOADS = {n: METHODS[n][0][2][-1].sum(0) for n in ("alone", "bias")}


def at_capacity(capacity_factor=1.25):
    return figures.capacity_at(LOADS, capacity_factor)


explore(at_capacity, capacity_factor=(0.5, 4.0, 0.25))

# %% [markdown]
# *What to see.* One batch of 256 tokens after training. Below the dashed line is what an expert has room for; the
# hatched part is dropped. Turn $c$ up until nothing is dropped on the left: by then most of the places on the right
# stay empty, and they are computed all the same.
#
# Is an even load enough? Even a router that throws dice fills no expert exactly. Its load is binomial, with mean
# $N/E$, so the share dropped can be computed:


# %%
from math import ceil, comb


def expected_drops(c, N=256, E=8):
    places = ceil(c * N / E)
    chance = [comb(N, n) * (E - 1) ** (N - n) / E**N for n in range(N + 1)]
    return E / N * sum(chance[n] * (n - places) for n in range(places, N + 1))


factors = [0.5 + 0.125 * i for i in range(21)]
last_loads = {n: [run[2][-1].sum(0) for run in many] for n, many in METHODS.items()}
by_dice = [expected_drops(c) for c in factors]
title = "Collapsed routers still drop tokens at a capacity factor of 2"
figures.drops(last_loads, factors, by_dice, title=title)

# %% [markdown]
# *What to see.* One line for each seed. Balanced routers follow the dotted line, dice. At $c = 1$ even dice drop some
# 6 %, at Switch's choice of 1.25 nearly nothing. The collapsed ones still drop tokens at twice the capacity that an
# even load would need. DBRX (trained with MegaBlocks) and DeepSeek-V3 drop nothing: with the right dispatch (section
# 8) experts need no equal shapes.
#
# ## 5 · DeepSeek: many small experts, one for everybody
#
# [DeepSeekMoE](https://arxiv.org/abs/2401.06066) (2024) cuts each expert into several thin ones and chooses more of
# them: the same cost, and far more combinations. What every token needs goes to **shared experts**, which are not
# routed. [DeepSeek-V3](https://arxiv.org/abs/2412.19437) scores each expert by a sigmoid of its own, so that experts
# no longer compete within a softmax, and balances by the bias:
#
# $$s = \sigma(W x) \qquad \text{choose by } s + b \qquad
#   p_e = 2.5\;\frac{s_e}{\sum_{f\,\text{chosen}} s_f}$$


# %%
def deepseek_v3(x, W, bias, k, scale=2.5):
    s = (x @ W.T).sigmoid()
    experts = (s.detach() + bias).topk(k).indices  # the bias chooses …
    weights = s.gather(-1, experts)  # … and is gone
    return scale * weights / weights.sum(-1, keepdim=True), experts


# %% tags=["nbval-check-output"]
from seqlab.ffn import DeepSeekV3Router


@holds
def this_is_deepseek_v3_with_a_shared_expert():
    router = partial(DeepSeekV3Router, top_k=2, n_groups=1, top_groups=1)
    layer, x = MoE(6, 8, router=router, d_ff=4, n_shared=1).double(), randn(1, 30, 6)
    layer.router.bias = 0.2 * randn(8).detach()
    W = layer.router.score.weight
    chosen = deepseek_v3(x[0], W, layer.router.bias, 2)
    ours = one_by_one(x[0], *chosen, layer.experts) + layer.shared(x[0])
    same(with_gradients(ours[None], x, layer), with_gradients(layer(x), x, layer))


# %% [markdown]
# One thing is missing. V3's 256 experts sit in 8 **groups**, on different machines. A token first chooses its best 4
# groups, each scored by the sum of its two best $s + b$, and then 8 experts within those: so it is sent to 4 machines
# at most. Exercise 17.5 writes that step, and shows the trap in it.
#
# ## 6 · Expert choice: a router that looks ahead
#
# If tokens choose experts, loads are uneven. So let experts choose tokens: [expert
# choice](https://arxiv.org/abs/2202.09368) gives each expert the $cN/E$ tokens that score highest for it. Every
# expert is full, nothing has to be balanced. But the tokens of a sequence now compete. We change one token at a time
# and watch all outputs:

# %%
from seqlab.ffn import ExpertChoiceRouter
from seqlab.figures.linear_attention import moved


@torch.no_grad()
def influence(router, T=16):
    """Entry (i, j): how much output i changes when token j is replaced."""
    torch.manual_seed(1)
    layer = MoE(8, 4, router=router, d_ff=8).eval()
    nn.init.normal_(layer.router.score.weight)
    x, other = torch.randn(2, 1, T, 8)
    y, change = layer(x), torch.zeros(T, T)
    for j in range(T):
        edited = x.clone()
        edited[:, j] = other[:, j]
        change[:, j] = (layer(edited) - y)[0].norm(dim=-1)
    return change


ROUTERS = {
    "Mixtral": MixtralRouter,
    "Switch": partial(SwitchRouter, capacity_factor=1.0),
    "expert choice": partial(ExpertChoiceRouter, capacity_factor=1.0),
}
maps = {name: influence(router) for name, router in ROUTERS.items()}
later = [f"{name} {(m.triu(1) > 1e-5).sum()}" for name, m in maps.items()]
moved(maps, title=f"Outputs that change with a later token: {', '.join(later)}")

# %% [markdown]
# *What to see.* Rows are outputs, columns the token that we changed; what lies to the right of the stairs is the
# influence of a *later* token. Mixtral has only a diagonal: each token is on its own. Switch has cells below it: an
# early token that takes the last place pushes out a later one. Expert choice has cells on both sides. A language
# model trained with it sees, through who was dropped, a little of the future, which it will not have when it writes.
#
# ## 7 · PEER: a million experts
#
# Push "many and small" to the end: a million experts of a single neuron, $E_i(x) = \sigma(d_i \cdot x)\,u_i$. Now the
# *router* is what costs: a million scores for each token. [PEER](https://arxiv.org/abs/2407.04153) makes the keys
# products. Expert $i = (r, s)$ has the key $[c_r ; c'_s]$, two halves out of $n = 1000$ each, so its score is a sum:
#
# $$q \cdot \mathrm{key}_{(r,s)} = q_1 \cdot c_r + q_2 \cdot c'_s$$
#
# Suppose $(r, s)$ is among the $k$ best. If $r$ were not among the $k$ best rows, then $k$ better rows, with the same
# $s$, would all beat it. So the $k$ best sums lie among the $k \times k$ sums of the best halves.


# %%
def product_top_k(a, b, k):
    """The k best of a_r + b_s, and their places r n + s. a, b (N, n)."""
    (top_a, r), (top_b, s) = a.topk(k), b.topk(k)
    sums = (top_a[:, :, None] + top_b[:, None, :]).flatten(1)  # (N, k²)
    scores, pair = sums.topk(k)
    n = a.shape[1]
    return scores, r.gather(1, pair // k) * n + s.gather(1, pair % k)


# %% tags=["nbval-check-output"]
from seqlab.ffn import PEER


@holds
def two_halves_find_the_best_of_all():
    a, b = randn(20, 30), randn(20, 30)
    everything = (a[:, :, None] + b[:, None, :]).flatten(1).topk(5)
    same(product_top_k(a, b, 5), tuple(everything))


@holds
def with_single_neurons_this_is_peer():
    layer = PEER(6, 400, n_heads=1, top_k=5, d_key=8, query_norm=None).double()
    x = randn(1, 10, 6)
    q1, q2 = layer.query(x[0]).chunk(2, dim=-1)
    scores, i = product_top_k(q1 @ layer.keys[0].T, q2 @ layer.keys[1].T, 5)
    hidden = nn.functional.gelu((layer.down[i] * x[0][:, None]).sum(-1))
    ours = ((scores.softmax(-1) * hidden)[..., None] * layer.up[i]).sum(1)[None]
    wanted = [x, *layer.parameters()]
    results = [
        (y, *torch.autograd.grad(y.sin().sum(), wanted)) for y in (ours, layer(x))
    ]
    same(*results)


# %%
halves = torch.randn(2, 20, 32, generator=torch.Generator().manual_seed(3))
explore(
    lambda token=0, k=4: figures.product_keys_at(halves[0, token], halves[1, token], k),
    token=(0, 19),
    k=(1, 12),
)

# %% [markdown]
# *What to see.* All 32 × 32 sums of one token, rows and columns sorted. The crosses are the $k$ best experts; none of
# them is outside the frame, for any token. (At least $r s - 1$ sums are as good as the one in row $r$ and column $s$,
# so even candidates with $r s > k$ could be left out.) For a million experts and $k = 16$, that makes 2 · 1,000 + 256
# numbers in place of 1,000,000. (The stored benchmark `benchmarks/results/peer.md` has the times.)
#
# ## 8 · Dispatch: the same sum in three ways
#
# `one_by_one` searches all tokens once for each expert. Two other ways do not:
#
# - **sorting**: sort the (token, slot) pairs by expert and gather once; each expert works on its own slice;
# - **capacity buffers**: give each expert a fixed block of places, and drop what does not fit.


# %%
def by_sorting(x, weights, experts, E):
    order = experts.flatten().argsort(stable=True)
    token = order // experts.shape[1]
    load = torch.bincount(experts.flatten(), minlength=len(E)).tolist()
    parts = zip(E, x[token].split(load), strict=True)
    served = torch.cat([expert(part) for expert, part in parts])
    served = weights.flatten()[order, None] * served
    return torch.zeros_like(x).index_add(0, token, served)


def in_buffers(x, weights, experts, E, places):
    e, k = experts.flatten(), experts.shape[1]
    before = nn.functional.one_hot(e, len(E)).cumsum(0) - 1  # rivals that came first
    turn = before.gather(1, e[:, None])[:, 0]
    kept = (turn < places).nonzero()[:, 0]
    slot, token = e[kept] * places + turn[kept], kept // k
    buffer = x.new_zeros(len(E) * places, x.shape[1]).index_copy(0, slot, x[token])
    parts = zip(E, buffer.split(places), strict=True)
    served = torch.cat([expert(part) for expert, part in parts])[slot]
    served = weights.flatten()[kept, None] * served
    return torch.zeros_like(x).index_add(0, token, served)


# %% tags=["nbval-check-output"]
@holds
def three_dispatches_give_one_answer():
    layer, x = MoE(6, 8, d_ff=5).double(), randn(1, 40, 6)
    wanted = with_gradients(layer(x), x, layer)
    for way in (one_by_one, by_sorting, partial(in_buffers, places=80)):
        chosen = top_k(layer.router.logits(x[0]), 2, True)
        ours = way(x[0], *chosen, layer.experts)[None]
        same(with_gradients(ours, x, layer), wanted)


# %% tags=["measured"]
from time import perf_counter

from seqlab.ffn import SwiGLU

T, D, EXPERTS = 2048, 128, (2, 4, 8, 16, 32, 64)
WAYS = {"loop over experts": one_by_one, "sorting": by_sorting, "buffers": in_buffers}
seconds = {name: {} for name in WAYS}
for n in EXPERTS:
    E = nn.ModuleList(SwiGLU(D, 32) for _ in range(n))
    tokens = torch.randn(T, D, requires_grad=True)
    chosen = top_k(torch.randn(T, n), 2, True)
    for _ in range(5):
        for name, way in WAYS.items():
            room = {"places": ceil(1.25 * 2 * T / n)} if way is in_buffers else {}
            start = perf_counter()
            way(tokens, *chosen, E, **room).sum().backward()
            took = perf_counter() - start
            seconds[name][n] = min(took, seconds[name].get(n, took))

loop, sort, _ = seconds.values()
ratios = {n: loop[n] / sort[n] for n in EXPERTS}
print("loop / sorting:", "  ".join(f"{n}: {r:.2f}" for n, r in ratios.items()))
at_8, at_64 = (f"{ratios[n]:.2f} times with {n}" for n in (8, 64))
title = f"The loop's time over sorting's: {at_8} experts, {at_64}"
figures.dispatch(seconds, title=title)

# %% [markdown]
# *What to see.* Forward and backward for 2,048 tokens, two experts each. The experts' own work is the same for every
# $E$; what grows is the cost of dispatch. With two or four experts there is little to choose between them. From eight
# on sorting wins, because the loop searches all tokens and touches a whole gradient once *per expert*. Buffers pay
# for empty places. (Larger experts hide the difference: `benchmarks/results/moe.md` has ratios for other widths, and
# chapter 27 has the kernel.)
#
# **On several machines** each process holds some experts, and tokens travel. Sorted order is what makes that easy:
# the rows for one process lie together. One *all-to-all* sends them off, a second brings the results back. Here are
# four processes on this machine, each with a quarter of the tokens and of the experts:

# %% tags=["measured"]
from seqlab.ffn.parallel import on_processes

torch.manual_seed(0)
parted, texts = MoE(64, 8, d_ff=64), torch.randn(8, 32, 64)
y, gradient, sent = on_processes(parted, texts, 4)
leaf = texts.clone().requires_grad_()
whole = parted(leaf)
whole.sin().sum().backward()
torch.testing.assert_close((y, gradient), (whole.detach(), leaf.grad))
print("four processes give the output and the gradient of one")
there_and_back = 2 * 2 * texts.nbytes  # two experts a token
print(f"bytes sent by each: {sent}; in all {sum(sent):,}", end=" ")
print(f"of {there_and_back:,}, if all rows left home")

# %% [markdown]
# About three quarters of all rows leave home, as they must: only a quarter of the experts is there. Each row is sent
# twice, there and back, and training sends both again for the gradient. This traffic is what DeepSeek's groups limit.
#
# ## 9 · Merging experts
#
# If there are more experts than kinds of data, several learn the same. Then they can be merged, to save memory after
# training. We train 16 experts on the eight clusters, with the auxiliary loss. Then we merge *each* pair in turn (the
# mean of the weights, by load), and measure the loss on 2,000 fresh points:


# %%
import copy
from itertools import combinations


def error(layer, batch):
    with torch.no_grad():
        return (layer(batch.x[None])[0] - batch.y).square().mean().item()


def after_merging(layer, batch, a, b):
    """The error if experts a and b are replaced by their mean, weighed by load."""
    load, merged = layer.routing.load, copy.deepcopy(layer)
    E, share = merged.experts, load[a] / (load[a] + load[b]).clamp(min=1)
    for p, q in zip(E[a].parameters(), E[b].parameters(), strict=True):
        p.data = q.data = share * p.data + (1 - share) * q.data
    return error(merged, batch)


def all_pairs(seed):
    """(distance, loss after merging, same cluster) of each pair; the loss before."""
    layer, _, who = learn(partial(Balanced, alpha=1.0), seed, n_experts=16)
    batch = Clusters(seed=seed).batch(2000, torch.Generator().manual_seed(99))
    before = error(layer, batch)
    weights = torch.stack([e.weight.detach().flatten() for e in layer.experts])
    distance, mainly = torch.cdist(weights, weights), who[-20:].sum(0).argmax(0)
    pairs = [
        (
            distance[a, b].item(),
            after_merging(layer, batch, a, b),
            mainly[a] == mainly[b],
        )
        for a, b in combinations(range(16), 2)
    ]
    return sorted(pairs), before


merged = [all_pairs(seed) for seed in SEEDS]

# %% tags=["measured"]
for seed, (pairs, before) in enumerate(merged):
    middle = pairs[len(pairs) // 2]
    print(f"seed {seed}: loss {before:.3f};", end=" ")
    print(f"nearest pair merged {pairs[0][1]:.3f}, a middling pair {middle[1]:.3f}")
pairs, before = merged[0]
title = f"Experts of one cluster merge at hardly any cost (before: {before:.3f})"
figures.merges(pairs, title=title)

# %% [markdown]
# *What to see.* Each mark is a pair. Merging a pair that serves one cluster (circles) hardly changes the loss, and
# the nearest pairs are all of this kind. Most other pairs cost more, and their distance does not tell how much. This
# worked because a linear expert has only one way to be what it is. An expert with hidden units has many: two that
# compute the same may list their units in another order, and their mean is then worthless. The project, 17.11, deals
# with that.
#
# ## 10 · In the wild
#
# A token pays for few experts, but memory holds all of them. What an idle expert saves can be computed from a model's
# sizes alone:

# %% tags=["nbval-check-output"]
from seqlab.zoo import RECIPES

MODELS = {}
for recipe in RECIPES:
    switch = recipe.name == "Switch Transformer"
    for model, s in recipe.published.items():
        if "n_experts" in s:
            layers = s["n_layers"] - s.get("n_dense", 0)  # DeepSeek's first are dense
            layers *= {"Switch Transformer": 2, "Jamba": 0.5}.get(recipe.name, 1)
            matrices = 2 if switch else 3  # ReLU, not SwiGLU
            expert = matrices * s["d_model"] * s.get("d_expert", s["d_ff"])
            chosen, total = s.get("top_k", 1), s["total"]
            active = total - layers * (s["n_experts"] - chosen) * expert
            name = f"{recipe.name} {model}".replace("V3 V3", "V3")
            MODELS[name] = total, active
            print(f"{name:20} {chosen:2} of {s['n_experts']:4} experts,", end=" ")
            print(f"{total / 1e9:5.0f}B total, {active / 1e9:4.1f}B active", end=" ")
            print(f"(published: {s.get('active', 0) / 1e9 or '–'})")

# %%
figures.active(
    {name.replace(" Transformer", ""): sizes for name, sizes in MODELS.items()},
    title="A token uses from about 1 in 4 to 1 in 1,000 of the weights",
)

# %% [markdown]
# *What to see.* Both axes are logarithmic; dotted lines are equal shares. Mixtral and DBRX use a little more than a
# quarter of their weights for a token, Qwen3 MoE about a tenth, DeepSeek-V3 one in eighteen. Switch-C is the extreme:
# 2,048 experts, one at a time. (The small difference of two large rounded numbers: only its first digit can be
# trusted.) The other counts agree with the published ones, which are rounded; those of MiniMax and Qwen3-Next leave out
# embedding and head. DeepSeek-R1 has V3's sizes: it is the same network, trained further.
#
# ### Fact check
#
# **"Mixtral 8x7B has 8 × 7 = 56 billion parameters."** It has 47: only the feed-forward layers are eightfold,
# attention is shared.
#
# **"Mixtral takes the top 2 of a softmax, without renormalising."** That is Switch's form (and Jamba's). Mixtral's
# weights add up to 1; section 2 shows both.
#
# **"DeepSeek-V3's bias is part of the gate."** It chooses and never weighs. V3 also keeps a small balance loss within
# each sequence ($10^{-4}$).
#
# **"Experts specialise by topic."** Ours did, because we made clusters. Mixtral's authors looked for topics and found
# hardly any: the choice followed syntax more than subject (section 5 of their paper).
#
# ## 11 · Practise
#
# In a terminal, `seqlab start 17` puts your own copy of the exercises into `work/`.

# %% [markdown] tags=["exercises"]
# The table of exercises is made from their files.

# %% [markdown]
# The notebook is [exercises/17_mixture_of_experts.ipynb](../exercises/17_mixture_of_experts.ipynb); work on the copy
# in `work/`.
#
# ## Recap, in five lines
#
# 1. An expert that is not chosen learns nothing, so a router left alone collapses: here to five to seven of eight
#    experts.
# 2. Soft, noisy top-k, Switch and Mixtral are one function; they differ in $k$, and in whether the weights are
#    divided by their sum.
# 3. A loss pushes probabilities down where the load is high; DeepSeek's bias only moves the choice. Both made the
#    load even here.
# 4. A router that counts places lets tokens disturb each other, and expert choice lets later ones disturb earlier
#    ones.
# 5. Sorting by expert makes dispatch cheap, on one process and on many; memory still holds every expert.
#
# Next, chapter 18: mixtures and memories in one model.
#
# ## References
#
# - R. Jacobs, M. Jordan, S. Nowlan, G. Hinton. [*Adaptive Mixtures of Local
#   Experts.*](https://doi.org/10.1162/neco.1991.3.1.79) 1991.
# - N. Shazeer et al. [*Outrageously Large Neural Networks: The Sparsely-Gated Mixture-of-Experts
#   Layer.*](https://arxiv.org/abs/1701.06538) 2017.
# - W. Fedus, B. Zoph, N. Shazeer. [*Switch Transformers.*](https://arxiv.org/abs/2101.03961) 2021.
# - Y. Zhou et al. [*Mixture-of-Experts with Expert Choice Routing.*](https://arxiv.org/abs/2202.09368) 2022.
# - T. Gale et al. [*MegaBlocks*](https://arxiv.org/abs/2211.15841) (dispatch without dropping; DBRX is trained with
#   it). 2022.
# - A. Jiang et al. [*Mixtral of Experts.*](https://arxiv.org/abs/2401.04088) 2024.
# - D. Dai et al. [*DeepSeekMoE.*](https://arxiv.org/abs/2401.06066) 2024.
# - Databricks. [*DBRX*](https://huggingface.co/databricks/dbrx-base), model card. 2024.
# - X. He. [*Mixture of A Million Experts*](https://arxiv.org/abs/2407.04153) (PEER). 2024.
# - L. Wang et al. [*Auxiliary-Loss-Free Load Balancing Strategy for
#   Mixture-of-Experts.*](https://arxiv.org/abs/2408.15664) 2024.
# - DeepSeek-AI. [*DeepSeek-V3 Technical Report.*](https://arxiv.org/abs/2412.19437) 2024.
# - A. Yang et al. [*Qwen3 Technical Report.*](https://arxiv.org/abs/2505.09388) 2025.
