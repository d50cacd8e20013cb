# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 19 · The recall gap
#
# **After this chapter you can**
#
# - say how many pairs a state of $K \times V$ numbers can return, by counting, and check the count against trained
#   models;
# - read a model's memory, its weights and its answer at one question that it gets wrong;
# - tell a memory that is full from a memory that forgets, by a heat map of needles;
# - say which recurrences can track parity, from their eigenvalues;
# - say what a recurrent state learns in context, and where it ends;
# - read a leaderboard, and ask what it does not compare.
#
# **You need** linear attention (chapter 03). Gates (05) and the delta rule (08) are recalled in a line each.
#
# **Time** 60 minutes to read, a minute to run.
#
# **Covers** associative recall (MQAR) · induction · needle in a haystack · parity · linear regression in context · the
# leaderboard.
#
# ## 1 · A failure: sixteen names
#
# A memory is told sixteen pairs, each a key and a value, and then asked for the value of each key. People call this
# *associative recall*. In the task of this section a pair is a single token, each key is written once, and there are
# eight values. Nothing is needed but a memory.
#
# We give it to three memories that differ in **one rule only**. `one_memory` is a single head with keys and values of
# width 4, without convolution, positions or gates around it. The rules are *softmax* attention; *linear* attention,
# $S \leftarrow S + v k^\top$; and the *delta* rule, $S \leftarrow S + \beta\,(v - S k)\,k^\top$, which first takes out
# some of what the key returned so far. The last two keep $4 \times 4 = 16$ numbers. Softmax attention keeps 8 for each
# token. Three seeds each, 300 steps, the learning rate 0.01 for all. **Before you read on**, commit to an answer below:
# at sixteen pairs, which of the other two comes second?

# %%
from functools import partial

import torch

from seqlab.course import predict
from seqlab.figures import recall_gap as figures
from seqlab.layers.one_memory import one_memory
from seqlab.model import LanguageModel
from seqlab.tasks import Mixed, Recall
from seqlab.train import accuracy, train

torch.set_num_threads(1)
SEEDS = (0, 1, 2)
PAIRS = (4, 8, 16)
SIZES = {n: Recall(16, 8, n, overwrite=False) for n in PAIRS}


def made(layers, vocab, seed, width=16):
    torch.manual_seed(seed)
    return LanguageModel(vocab, width, layers, None, embedding_scale=50.0)


def learned(layers, task, seed, steps, width=16):
    model = made(layers, task.vocab, seed, width)
    train(model, task, steps=steps, lr=0.01, seed=seed, show=False)
    return model


def asked(model, task, n=250):
    return accuracy(model, task.batch(n, torch.Generator().manual_seed(7)))


narrow = partial(one_memory, d_key=4, d_value=4)
RULES = ("softmax", "linear", "delta")
mixed = Mixed(tuple(SIZES.values()))
models = {
    rule: [learned([partial(narrow, rule=rule)], mixed, seed, 300) for seed in SEEDS]
    for rule in RULES
}
measured = {
    rule: {n: [asked(model, task) for model in three] for n, task in SIZES.items()}
    for rule, three in models.items()
}

# %%
mean16 = {rule: sum(by_size[16]) / 3 for rule, by_size in measured.items()}
predict(
    "19-second",
    "At sixteen pairs, who comes second to softmax attention?",
    lambda: figures.curves(
        measured,
        title=f"16 pairs: softmax {mean16['softmax']:.0%}, "
        f"linear {mean16['linear']:.0%}, delta {mean16['delta']:.0%}",
        x="pairs (log scale)",
        chance=1 / 8,
    ),
    choices=["the delta rule", "linear attention", "neither: they are tied"],
)

# %% [markdown]
# *What to see.* A curve is the mean of three seeds, a bar goes from the worst to the best. Softmax attention answers
# everything. The other two lose answers from the start and end near 40 %, three times what guessing gives. The usual
# guess is the delta rule, because it is the newer one and real models that use it recall more. Here it does no better,
# and section 3 will say why: nothing in this task is ever written twice.
#
# This is the **recall gap**. [Arora et al.](https://arxiv.org/abs/2312.04927) found it in language models: most of the
# difference in loss between attention and recurrent models of their time lay in words that repeat an earlier pair.
#
# ## 2 · One question that fails
#
# Take one sequence and ask linear attention and softmax attention the same sixteen questions. At each question we look
# at three things: what the model keeps, how much of each written pair is in what it reads, and what it answers.

# %%
from seqlab.microscope import observe

task = SIZES[16]
example = task.batch(1, torch.Generator().manual_seed(3))
words = [task.word(int(t)) for t in example.tokens[0]]


@torch.no_grad()
def at_questions(model):
    """What one model keeps, reads and answers at each of the sixteen questions."""
    block = model.blocks[0]
    x = block.mixer_norm(50 * model.embedding(example.tokens))
    trace = observe(block.mixer, x, words)
    odds = model(example.tokens)[0][0, :, -8:].softmax(-1)
    return [
        figures.Seen(trace.states[t], trace.weights[t, :16], odds[t])
        for t in range(16, 32)
    ]


views = {rule: at_questions(models[rule][0]) for rule in ("linear", "softmax")}
pages, failed = {}, []
for i, word in enumerate(words[16:]):
    written = [w[0] for w in words[:16]].index(word[0])
    right = int(words[written][1])
    said = {rule: int(seen[i].answers.argmax()) for rule, seen in views.items()}
    own = views["linear"][i].weights[written] > 0.9
    failed += [i] if own and said["linear"] != right == said["softmax"] else []
    pages[word] = figures.question(
        {rule: seen[i] for rule, seen in views.items()},
        words[:16],
        written,
        right,
        title=f"{word} is {right}: linear attention says {said['linear']}, "
        f"softmax attention {said['softmax']}",
    )
figures.questions(pages, failed[0])

# %% [markdown]
# *What to see.* The asked pair and the right answer are orange and outlined; drag the slider to other questions.
# Softmax attention gives one pair nearly all its weight. Linear attention reads the asked pair with a large weight
# too, but its weights are plain dot products $k_j \cdot q$, and those of fifteen other pairs are not zero. In four
# dimensions they cannot be. If several wrong pairs share a value, that value wins. (For some keys the own weight is
# near $-1$: the model stores key and value both negated, which is the same write.) Left: the state is 16 numbers
# however many pairs it holds; the cache has a column for each token.
#
# The same memory in the state microscope, token by token:

# %%
from seqlab.widgets import microscope

block = models["linear"][0].blocks[0]
with torch.no_grad():
    x = block.mixer_norm(50 * models["linear"][0].embedding(example.tokens))
microscope(block.mixer, x, words)

# %% [markdown]
# *What to see.* Lower right, the cosine between what each key returns and its value. After a few pairs hardly any
# reaches 0.9. Answers are right more often than that, because the right value only has to be the *largest* of eight. At
# a question the model writes too, but about a tenth as strongly as at a pair.
#
# ## 3 · What can K × V numbers hold?
#
# Three counts, each tighter than the one before.
#
# **Bits.** Sixteen values out of eight are $16 \cdot 3 = 48$ bits. Sixteen float32 numbers are 512. By this count there
# is room for ten times as much. So the state is not too small to *contain* the answers.
#
# **Equations.** But it must be read by a product. If $S k_i = v_i$ for $n$ pairs, that is $n$ conditions on each row of
# $S$, which has $K$ numbers. For arbitrary values they can be met only if the keys are independent, so $n \le K$.
#
# **Disturbance.** Beyond that we settle for the right value being the *largest*. Let keys have length 1. A sum of
# writes returns
#
# $$S k_i = v_i + \sum_{j \ne i} (k_j \cdot k_i)\, v_j.$$
#
# The second part disturbs. If values are drawn independently, with mean zero and length 1, its mean square is
# $\sum_{j \ne i} (k_j \cdot k_i)^2$. Its average over all pairs is $\|G\|^2/n - 1$, where $G_{ij} = k_i \cdot k_j$.
# Now $G$ has trace $n$ and at most $K$ eigenvalues $\lambda$ that are not zero, so
# $n^2 = (\sum \lambda)^2 \le K \sum \lambda^2 = K \|G\|^2$, and
#
# $$\text{mean square disturbance} \;\ge\; \frac nK - 1.$$
#
# No choice of keys beats this ([Welch 1974](https://doi.org/10.1109/TIT.1974.1055219)). At $n = K$ it can be zero. At
# $n = 2K$ the disturbance is as large as the answer. Keys that reach the bound are called a *tight frame*; here is a
# way to make one, and three ways to write.

# %%
from seqlab.core.recurrence import recurrent


def frame(n, d, rng):
    """n vectors of length 1 in d dimensions that disturb each other least."""
    x = torch.randn(n, d, generator=rng, dtype=torch.float64)
    for _ in range(100):
        u, _, v = torch.linalg.svd(
            x / x.norm(dim=-1, keepdim=True), full_matrices=False
        )
        x = u @ v  # equal singular values, then equal lengths, and again
    return x / x.norm(dim=-1, keepdim=True)


def summed(k, v):
    """Linear attention: the sum of all writes."""
    return v.mT @ k


def replaced(k, v, beta=1.0):
    """The delta rule, pair after pair."""
    S = v.new_zeros(*v.shape[:-2], v.shape[-1], k.shape[-1])
    for k_i, v_i in zip(k.unbind(-2), v.unbind(-2), strict=True):
        wrong = v_i - (S @ k_i[..., None])[..., 0]
        S = S + beta * wrong[..., None] * k_i[..., None, :]
    return S


def fitted(k, v):
    """The best that any S can do in mean square: least squares."""
    return (torch.linalg.pinv(k) @ v).mT


# %% tags=["nbval-check-output"]
from seqlab.course import holds


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def disturbance(k):
    G = k @ k.mT
    return ((G**2).sum() / len(k) - 1).item()


@holds
def no_keys_disturb_less_than_the_bound():
    rng = torch.Generator().manual_seed(0)
    for n, K in ((16, 4), (9, 4), (32, 8)):
        k = torch.randn(n, K, generator=rng).double()
        assert disturbance(k / k.norm(dim=-1, keepdim=True)) > n / K - 1
        assert abs(disturbance(frame(n, K, rng)) - (n / K - 1)) < 1e-6
    assert disturbance(torch.eye(4)) == 0


@holds
def sum_and_delta_rule_are_the_recurrence_of_the_course():
    rng = torch.Generator().manual_seed(1)
    k = frame(7, 4, rng).requires_grad_()
    v = torch.randn(7, 3, generator=rng, dtype=torch.float64).requires_grad_()
    one = (k[None, :, None], k[None, :, None], v[None, :, None])
    for ours, beta in ((summed(k, v), None), (replaced(k, v, 0.7), 0.7)):
        b = None if beta is None else v.new_full((1, 7, 1), beta)
        theirs = recurrent(*one, beta=b)[1][0, 0]
        same(ours, theirs)
        g = [torch.autograd.grad(S.sin().sum(), (k, v)) for S in (ours, theirs)]
        same(*g)


# %% [markdown]
# Now count, without training anything: draw pairs, write them, read each key, and take the value with the largest
# product. Sixteen keys are a tight frame in 4 dimensions; eight values are the axes and their negatives.


# %%
def counted(K, V, n_keys, pairs, write, n_values=8, trials=400):
    """pairs -> share of right answers."""
    rng = torch.Generator().manual_seed(0)
    keys, I = frame(n_keys, K, rng), torch.eye(V).double()
    values = torch.cat([I, -I])[:n_values]
    shares = {}
    for n in pairs:
        chosen = torch.rand(trials, n_keys, generator=rng).argsort(-1)[:, :n]
        v = torch.randint(n_values, (trials, n), generator=rng)
        S = write(keys[chosen], values[v])
        said = (keys[chosen] @ S.mT @ values.mT).argmax(-1)
        shares[n] = (said == v).double().mean().item()
    return shares


WRITES = {
    "counted: a sum": summed,
    "counted: delta rule, β = 1": replaced,
    "counted: least squares": fitted,
}
exact = {name: counted(4, 4, 16, PAIRS, write) for name, write in WRITES.items()}
figures.curves(
    {rule: measured[rule] for rule in ("linear", "delta")},
    exact=exact,
    title=f"16 pairs: a sum of perfect keys gets {exact['counted: a sum'][16]:.0%}, "
    f"trained linear attention {mean16['linear']:.0%}",
    x="pairs (log scale)",
    chance=1 / 8,
)

# %% [markdown]
# *What to see.* Trained linear attention lies on the curve of a sum with the best possible keys, or a little below it:
# it found keys about as good as there are, and the count explains what is left. The delta rule with $\beta = 1$ would
# do *worse* at 8 and 16 pairs. It makes the newest pair exact and damages the older ones, which is right if keys are
# written again and wrong if all pairs count alike. What does the trained one do?

# %% tags=["measured"]
with torch.no_grad():
    for seed, model in zip(SEEDS, models["delta"], strict=True):
        block = model.blocks[0]
        x = block.mixer_norm(50 * model.embedding(torch.arange(128)[None]))
        strength = block.mixer.project(x)["beta"]
        print(f"seed {seed}: mean β at a written pair {strength.mean():.2f}")

# %% [markdown]
# It learned a small $\beta$: nearly a sum. (The read is divided by its root mean square, so a small sum is as good as a
# large one.) Even least squares, which no single pass over the pairs can reach, gains little beyond $n = 2K$. **More
# recall needs a larger state, or another way to read it, not a cleverer write.** Turn the dials:

# %%
explore_pairs = [2, 4, 8, 16, 32]


def dial(K=8, V=4):
    ways = {
        n: counted(K, V, 32, explore_pairs, w, trials=60) for n, w in WRITES.items()
    }
    as_found = {
        n.removeprefix("counted: "): {p: [s] for p, s in by.items()}
        for n, by in ways.items()
    }
    half = [p for p, s in ways["counted: a sum"].items() if s >= 0.9]
    title = (
        f"K = {K}, V = {V}: a sum returns 9 of 10 up to {max(half, default=0)} pairs"
    )
    return figures.curves(as_found, title=title, x="pairs (log scale)", chance=1 / 8)


from seqlab.widgets import explore

explore(dial, K=[2, 4, 8, 16, 32], V=[4, 8])

# %% [markdown]
# *What to see.* $K$ moves the edge: least squares is perfect up to $n = K$, the sum falls behind a little sooner. $V$
# only has to keep eight values apart.

# %% [markdown]
# ## 4 · The longer run, and the leaderboard
#
# One small setting proves little. `python benchmarks/recall.py` trains sixteen stacks of layers on 4 to 32 pairs under
# 32 keys: 2,000 steps, three seeds, heads of width 8 and therefore states of 64 numbers, the learning rate of each the
# best of three. It shows its progress and goes on where it was stopped. Its stored result:

# %%
import json

from seqlab.course.paths import root

stored = root() / "benchmarks" / "results"
print((stored / "recall.md").read_text())

# %%
lines = json.loads((stored / "recall.json").read_text())["results"]
by_name = {
    line["model"]: {int(n): xs for n, xs in line["accuracy"].items()} for line in lines
}
at32 = {name: sum(by_size[32]) / 3 for name, by_size in by_name.items()}
one_layer = [x["model"] for x in lines if len(x["rules"]) == 1]
figures.curves(
    {name: by_name[name] for name in one_layer},
    exact={"counted: a sum": counted(8, 8, 32, (4, 8, 16, 32), summed)},
    title=f"32 pairs: softmax {at32['softmax attention']:.0%}, "
    f"linear attention {at32['linear attention']:.0%}",
    x="pairs (log scale)",
    chance=1 / 8,
)

# %%
figures.curves(
    {name: by_name[name] for name in by_name if name not in one_layer},
    title=f"32 pairs: 1:3 hybrid {at32['hybrid 1:3']:.0%}, "
    f"with a small embedding {at32['hybrid 1:3, small embedding']:.0%}",
    x="pairs (log scale)",
    chance=1 / 8,
)

# %% [markdown]
# *What to see.* First figure: all five rules with a state lie on one curve, within the spread of the seeds. There is
# nothing to forget and nothing to overwrite, so gates and the delta rule have nothing to do. They end above the thin
# line of the count, which is for one frame drawn at random; only the *disturbance* has a bound, and training may
# choose its keys. Width sets the gap: with width 6 linear attention drops to about half while softmax attention hardly
# moves. A window that keeps as many numbers as the states (4 tokens) is at chance; with eight times as many it is
# still below them.
#
# Second figure: four layers of linear attention have four states, and nearly close the gap. One layer of attention
# among four, or among eight, closes it. Eight linear layers have twice the state of four and recall a little *less*: a
# stack must also be trained. The lowest curve shows how much that can matter. It is the *same* hybrid, its embedding
# started at 0.02 a number, as usual, and not at 1. Then what the first layer adds is about fifty times as large as the
# token's own embedding. Later layers hardly see the tokens, we think, and in 2,000 steps none of the three runs came to
# use its attention. It looks like a limit of hybrids. It is a matter of the start: claims about ratios need such a
# control.
#
# Not tried: learning rates outside 0.003 to 0.03 (for several rules the smallest was best), a search for the deep
# stacks, other widths of the stream. "Flat" means that the loss of the last fifth moves less than batches differ.

# %%
from seqlab.course.leaderboard import load
from seqlab.figures.leaderboard import accuracy_by_size

board = load(stored / "leaderboard_small")
accuracy_by_size(board, "recall")

# %% [markdown]
# *What to see.* Another order: RetNet and GLA lead, DeltaNet and Gated DeltaNet are far behind. These are whole
# architectures of equal parameters, with their convolutions, norms and gates, four heads and a SwiGLU, after 500
# steps. In the run above the rules alone were tied after 2,000. So this board says how *fast* each learns the task in
# this form, not what it can hold. Ask of any board: is the state equal? Is the loss flat? How was the learning rate
# chosen? What else differs between two rows? [The page of the leaderboard](../docs/leaderboard.md) answers for ours,
# and `seqlab leaderboard --setting full` adds the published task with two tokens a pair, and every causal row of the
# zoo.
#
# ## 5 · Needles: full, or forgetful?
#
# Recall has many pairs in a short text. A *needle in a haystack* is one pair in a long one. Its *depth* is 0 at the
# start of the haystack and 1 just before the question. Both tests are called "recall", and they fail for different
# reasons. Before you look: which rule fails by *length*, and which by *depth*?
#
# Key and value are two tokens now, so a short convolution comes first, to let a value see the key before it. The models
# train on texts of 16 and 32 tokens, at all depths, until they make no error there. Then we ask up to 512.

# %%
from seqlab.tasks import Needle
from seqlab.zoo import row

shift = row("Based's short convolution").make
hay = partial(Needle, n_keys=4, n_values=4)
LENGTHS, DEPTHS = (64, 128, 256, 512), (0.0, 0.25, 0.5, 0.75, 1.0)


def map_of(rule):
    """Accuracy by length and depth, the mean of three seeds."""
    layers = [shift, partial(one_memory, rule=rule, d_key=4, d_value=4, window=32)]
    train_on = Mixed((hay(length=16), hay(length=32)))
    three = [learned(layers, train_on, seed, 150) for seed in SEEDS]
    cells = [
        [sum(asked(m, hay(length=n, depth=d), 50) for m in three) / 3 for d in DEPTHS]
        for n in LENGTHS
    ]
    return torch.tensor(cells)


NAMES = {
    "softmax": "softmax",
    "window": "window of 32",
    "linear": "linear",
    "decay": "constant decay",
}
maps = {name: map_of(rule) for rule, name in NAMES.items()}
figures.needles(
    maps,
    LENGTHS,
    DEPTHS,
    title=f"512 tokens, depth 0: linear {maps['linear'][-1, 0]:.0%}, "
    f"decay {maps['constant decay'][-1, 0]:.0%}, softmax {maps['softmax'][-1, 0]:.0%}",
)

# %% [markdown]
# *What to see.* Percent right, in each cell the mean of three seeds. The window has an edge: what is 32 tokens back is
# gone. The decay loses *old* needles first, so its map changes from left to right. Linear attention forgets nothing,
# but every filler adds a little to its sum: its map changes from top to bottom, and hardly from left to right. It is
# not forgetful, it is full. Softmax attention finds the needle at all lengths here. (One needle, eight fillers, no
# position codes. With rotations or with look-alike pairs the map of attention has holes, too.) A test at one depth, or
# at one length, cannot tell these apart.
#
# ## 6 · State tracking: who can do parity?
#
# Recall asks what was said. *Parity* asks what it amounts to: is the number of ones so far odd? It needs one bit of
# state, no more. Attention must count all ones anew at each token. A recurrence only has to turn one bit over; but can
# it?
#
# Take one number $s$ with $s \leftarrow \lambda s + b$, with $\lambda$ and $b$ chosen by the token, and feed it ones.
# Two steps in a row differ by $s_{t+1} - s_t = \lambda\,(s_t - s_{t-1})$. If $\lambda \ge 0$ this difference never
# changes its sign: $s$ can only rise, or only fall. But parity alternates, so a threshold on $s$ is wrong from some
# point on. With $\lambda < 0$ the difference changes sign at each step. **A gate between 0 and 1 cannot turn a bit
# over; an eigenvalue below zero can** ([Grazzi et al.](https://arxiv.org/abs/2411.12537)).
#
# The delta rule multiplies what it holds in the direction $k$ by $1 - \beta$. With $\beta = \sigma(\cdot)$ that is in
# $(0, 1)$. Twice the sigmoid reaches $-1$. For instance $\beta = 2$ and $v = \tfrac12$ at a one, $\beta = 0$ at a zero:


# %% tags=["nbval-check-output"]
@holds
def one_negative_eigenvalue_is_parity():
    bits = torch.randint(2, (3, 200), generator=torch.Generator().manual_seed(0))
    one = torch.ones(3, 200, 1, 1).double()
    s = recurrent(one, one, one / 2, beta=2 * bits[..., None].double())[0]
    same(s[..., 0, 0], (bits.cumsum(1) % 2).double())


# %% [markdown]
# So it *can*. Does training find it? Two models that differ in the range of $\beta$, three seeds, trained on 16 bits.

# %%
from seqlab.tasks import Parity


def tracker(signed, seed):
    layer = partial(one_memory, rule="delta", d_key=4, d_value=4, signed=signed)
    model = learned([layer], Parity(16), seed, 400, width=8)
    block = model.blocks[0]
    with torch.no_grad():
        x = block.mixer_norm(50 * model.embedding(torch.tensor([[0, 1]])))
        beta = block.mixer.project(x)["beta"][0, :, 0]
    right = {n: asked(model, Parity(n)) for n in (16, 32, 64, 128, 256)}
    return figures.Tracker(right, *(1 - beta).tolist())


trackers = {
    "β up to 1": [tracker(False, seed) for seed in SEEDS],
    "β up to 2": [tracker(True, seed) for seed in SEEDS],
}
solved = sum(run.accuracy[16] > 0.99 for run in trackers["β up to 2"])
figures.trackers(
    trackers,
    title=f"16 bits: {solved} of 3 runs solve parity with β up to 2, none up to 1",
    chance=0.5,
)

# %% [markdown]
# *What to see.* Each line is a run. With $\beta$ up to 1 none gets far. With $\beta$ up to 2 an eigenvalue near $-1$
# at a one is not enough: it must also be near $+1$ at a zero. The run that is left behind turns its bit over at zeros
# as well. *Can* and *learns to* are two questions. And 0.92 at a zero is not 1: each zero shrinks what is held, so
# accuracy falls with the length. In the stored leaderboard, DeltaNet is first at parity. Its $\beta$ stays below 1
# there; behind its convolution and SwiGLU it gets far in 16 bits, without being exact.
#
# A modulus above 2 needs a rotation, so complex eigenvalues or two reflections in a token (DeltaProduct, chapter 08).
#
# ## 7 · Does a state learn in context?
#
# In-context learning is recall of a rule. Each text of [Garg et al.'s](https://arxiv.org/abs/2208.01066) task has its
# own vector $w$. It shows $x_1, y_1, x_2, y_2, \dots$ with $y_i = w \cdot x_i$, and at each $x_i$ asks for $y_i$.
# Nothing can be learned by heart. What would each memory do, by its equation alone?
#
# - A **sum** with $k = x$, $v = y$ holds $\sum_j y_j x_j$. That is one step of gradient descent on all examples, from
#   $w = 0$ ([von Oswald et al.](https://arxiv.org/abs/2212.07677)).
# - The **delta rule** with $k = x / \|x\|$, $v = y / \|x\|$ does $w \leftarrow w + \beta\,(y - w \cdot x)\, x /
#   \|x\|^2$: one step for *each* example, on the error that is left.
# - **Softmax attention** in one layer returns a mean of the $y_j$, weighted by how near $x_j$ is to $x$. That is a
#   kernel smoother: it never learns that the rule is linear.
#
# The second claim as a theorem, then all of them at work. No training yet.

# %% tags=["nbval-check-output"]
from seqlab.tasks import LinearRegression

regression = LinearRegression(4, 16)
batch = regression.batch(2000, torch.Generator().manual_seed(1))
X, Y = batch.tokens[:, 0::2, :4].double(), batch.tokens[:, 1::2, 0].double()


def delta_guesses(X, Y, beta):
    """The guess of y_i from the examples before it."""
    size = X.norm(dim=-1, keepdim=True)[:, :-1]
    k, v = X[:, :-1] / size, Y[:, :-1, None] / size
    strength = torch.full_like(v, beta)
    q, k, v = (
        u[:, :, None] for u in (X[:, 1:], k, v)
    )  # one head; x_i reads after i - 1
    y, _ = recurrent(q, k, v, beta=strength)
    return torch.cat([torch.zeros_like(Y[:, :1]), y[:, :, 0, 0]], 1)


@holds
def the_delta_rule_is_a_gradient_step_for_each_example():
    beta, w = 0.8, torch.zeros(2000, 4).double().requires_grad_()
    guesses = []
    for x, y in zip(X.unbind(1), Y.unbind(1), strict=True):
        guess = (w * x).sum(-1)
        loss = 0.5 * ((y - guess) ** 2 / (x**2).sum(-1)).sum()
        guesses.append(guess.detach())
        (slope,) = torch.autograd.grad(loss, w)
        w = (w - beta * slope).detach().requires_grad_()
    same(delta_guesses(X, Y, beta), torch.stack(guesses, 1))


# %%
def best_of(make, dials):
    """For each number of examples, the least error over the dials."""
    return torch.stack([((make(d) - Y) ** 2).mean(0) for d in dials]).amin(0)


def sum_guesses(rate):
    held = torch.cumsum(Y[..., None] * X, 1) - Y[..., None] * X
    n = torch.arange(16).clamp(min=1)
    return rate * (held * X).sum(-1) / n


def smoother(width):
    far = torch.cdist(X, X) ** 2 / width
    earlier = torch.ones(16, 16).tril(-1).bool()
    w = far.neg().masked_fill(~earlier, -torch.inf).softmax(-1).nan_to_num()
    return (w @ Y[..., None])[..., 0]


DIALS = torch.linspace(0.05, 1.5, 30)
errors = {
    "sum, best step": best_of(sum_guesses, DIALS),
    "delta rule, best β": best_of(lambda b: delta_guesses(X, Y, float(b)), DIALS[:20]),
    "smoother, best width": best_of(smoother, 2 ** torch.linspace(-2, 6, 30)),
    "least squares": best_of(lambda _: regression.least_squares(batch), [0]),
}
for name, e in errors.items():
    print(f"{name}: " + ", ".join(f"{n} seen {e[n]:.2f}" for n in (2, 4, 8, 15)))

# %% [markdown]
# Now trained models: a short convolution, so that $x$ and $y$ can meet, then one or two layers of `one_memory` with a
# SwiGLU each; three seeds. `python benchmarks/in_context.py` makes this result:

# %%
trained = json.loads((stored / "in_context.json").read_text())["results"]
runs = {
    line["model"]: {n: [by_seed[n] for by_seed in line["errors"]] for n in range(16)}
    for line in trained
    if line["model"] != "least squares"
}
thin = ("delta rule, best β", "sum, best step", "smoother, best width")
last = {name: sum(by_n[15]) / 3 for name, by_n in runs.items()}
figures.curves(
    runs,
    exact={name: dict(enumerate(errors[name].tolist())) for name in thin},
    title=f"After 15 examples: delta rule {last['delta rule']:.2f}, "
    f"softmax {last['softmax attention']:.2f}, in one layer",
    x="examples seen",
    y="mean square error (log scale)",
    log=True,
)

# %% [markdown]
# *What to see.* Thick, trained; thin, the equations alone; at the floor, not drawn, is least squares. One layer of the
# delta rule does what its equation says, nearly to the number: the model found gradient descent. Two layers are
# better. Softmax attention with one layer is far behind, and so is linear attention, which is about as good; its
# second layer helps. (Both beat the bare equations, since a norm and a SwiGLU stand behind them.) So a recurrent model
# *can* learn in context, here better than attention with as many layers. Attention with many more layers is known to
# reach least squares on this task (Garg et al. used twelve); we did not train that.
#
# **Where does the state end?** At its width. The vector $w$ has four numbers. Keys of width 2 reach two directions of
# it at a time, and those runs stop early, far apart from seed to seed. Recall needs a column for each *pair*;
# regression needs one for each *dimension*, however many examples there are. That is the sense in which a fixed state
# suffices.
#
# ## 8 · In the wild
#
# How large are the states of real models? In each head at most $K$ keys can be independent. And after how many tokens
# would the cache of Llama 3.1 8B be as large as the whole state?

# %% tags=["nbval-check-output"]
from seqlab.zoo import recipe
from seqlab.zoo.memory import kept

llama = kept("Transformer 2026", "Llama 3.1 8B").bytes(1)
for name, model, width in (
    ("Falcon Mamba", "7B", "d_state"),
    ("Codestral Mamba", "7B", "d_state"),
    ("Jamba", "v0.1", "d_state"),
    ("Bamba", "9B", "d_state"),
    ("Qwen3-Next", "80B-A3B", "d_key"),
):
    sizes, state = recipe(name).published[model], kept(name, model).bytes(0)
    also = "" if kept(name, model).bytes(1) == state else ", and a cache in some layers"
    print(
        f"{name} {model}: K = {sizes[width]} a head, {state / 1e6:,.0f} MB of state, "
        f"as much as {state / llama:,.0f} tokens of Llama's cache{also}"
    )

# %% [markdown]
# Three of the five keep some attention layers beside the state. Chapter 18 is about how few suffice.
#
# ### Fact check
#
# **"Linear attention cannot recall."** It can: at $n \le K$ it answers nearly everything (section 3). The gap is a
# curve over $n / K$, so a single number of pairs can show anything.
#
# **"The delta rule recalls more."** Where keys are written again it does (chapter 08). On keys that are written once,
# it did not here, and the count says why.
#
# **"A state of 512 bits holds 48 bits of answers."** It contains them. A product cannot read them all.
#
# **"State space models track state."** Despite the name, not if their eigenvalues lie between 0 and 1
# ([Merrill et al.](https://arxiv.org/abs/2404.08819)).
#
# **"Recurrent models do not learn in context."** One delta-rule layer learned linear regression here, better than one
# layer of softmax attention. That is one task, and the one that its rule is made for. In copying long strings the fixed
# state ends, whatever the rule ([Jelassi et al.](https://arxiv.org/abs/2402.01032)).
#
# ## 9 · Practise
#
# In a terminal, `seqlab start 19` puts your own copy of the exercises into `work/`.

# %% [markdown] tags=["exercises"]
# The table of exercises is made from their files.

# %% [markdown]
# The notebook is [exercises/19_recall_gap.ipynb](../exercises/19_recall_gap.ipynb); work on the copy in `work/`.
#
# ## Recap, in five lines
#
# 1. A state of $K \times V$ numbers returns at most $K$ arbitrary pairs exactly; beyond, the mean square disturbance
#    of a sum is at least $n/K - 1$, whatever the keys.
# 2. Trained linear attention comes close to that count; gates and the delta rule do not move it where each key is
#    written once.
# 3. A map of length and depth tells a full memory from one that forgets.
# 4. Parity needs a negative eigenvalue: possible is not yet learned.
# 5. A sum is one gradient step on all examples, the delta rule one step for each: a recurrent state learns in context,
#    as far as its width goes.
#
# Next, chapter 20: turning a trained transformer into a recurrent model.
#
# ## References
#
# - S. Arora et al. [*Zoology: Measuring and Improving Recall in Efficient Language
#   Models.*](https://arxiv.org/abs/2312.04927) 2023.
# - S. Arora et al. [*Simple linear attention language models balance the recall-throughput
#   tradeoff.*](https://arxiv.org/abs/2402.18668) 2024.
# - L. Welch. [*Lower Bounds on the Maximum Cross Correlation of Signals.*](https://doi.org/10.1109/TIT.1974.1055219)
#   1974.
# - R. Grazzi et al. [*Unlocking State-Tracking in Linear RNNs Through Negative
#   Eigenvalues.*](https://arxiv.org/abs/2411.12537) 2024.
# - W. Merrill, J. Petty, A. Sabharwal. [*The Illusion of State in State-Space
#   Models.*](https://arxiv.org/abs/2404.08819) 2024.
# - S. Garg et al. [*What Can Transformers Learn In-Context? A Case Study of Simple Function
#   Classes.*](https://arxiv.org/abs/2208.01066) 2022.
# - J. von Oswald et al. [*Transformers learn in-context by gradient descent.*](https://arxiv.org/abs/2212.07677) 2022.
# - S. Jelassi et al. [*Repeat After Me: Transformers are Better than State Space Models at
#   Copying.*](https://arxiv.org/abs/2402.01032) 2024.
# - C. Olsson et al. [*In-context Learning and Induction Heads.*](https://arxiv.org/abs/2209.11895) 2022.
