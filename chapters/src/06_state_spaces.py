# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 06 · State spaces
#
# **After this chapter you can**
#
# - say why a gate learned from data starts blind to long range, and measure how far it sees;
# - derive HiPPO: the matrix that keeps a polynomial fit of everything read so far;
# - turn a differential equation into a recurrence, by three rules, and say what each gets wrong;
# - compute one linear system as a recurrence, a convolution and a parallel scan;
# - tell S4, S4D, DSS, S5, LRU and GSS apart;
# - write Mamba's selective scan and its block, and say what selection buys and costs.
#
# **You need** chapters 03 and 05: the state, and gates. Complex numbers help: $e^{i\theta}$ turns by the angle
# $\theta$.
#
# **Time** 90 minutes to read, a minute to run.
#
# **Covers** HiPPO · discretisation · S4, S4D, S4D-Real, DSS, S5, LRU, GSS · the shift SSM · parallel scan · Mamba (S6).
#
# Chapter 05 let each token choose what to forget. This chapter comes to the same equation from control theory, and
# asks first: *what is a good memory, before any training?*
#
# ## 1 · A failure: a gate sees as far as it starts
#
# The task is a delayed copy. One of four symbols, then blanks, then a question: which symbol was it? A blank is an
# embedding of zero, so it writes nothing; only time passes. The model is chapter 05's GLA: one layer, width 16. Its
# gate is $a_t = \sigma(\cdot)^{1/\tau}$ with $\tau = 16$. Each model is trained three times, with seeds 0, 1 and 2:
# 80 steps, learning rate 0.02.

# %%
from functools import partial

import torch

from seqlab.core.scan import linear_scan
from seqlab.mixers import GLA, S4D
from seqlab.model import LanguageModel
from seqlab.tasks import DelayedCopy
from seqlab.train import accuracy, train

torch.set_num_threads(1)
SEEDS = (0, 1, 2)


def by_scan(q, k, v, *, log_a, state=None, **_):
    """S_t = S_{t-1} diag(a_t) + v_t k_tᵀ for all t at once: section 6 shows how."""
    S = linear_scan(log_a.exp()[..., None, :], v[..., None] * k[..., None, :], state)
    return (S @ q[..., None])[..., 0], S[:, -1]


def copied(mixer, delay, seed):
    """The share of right answers after training at this delay."""
    torch.manual_seed(seed)
    task = DelayedCopy(4, delay)
    model = LanguageModel(task.vocab, 16, [mixer], ffn=None)
    model.embedding.weight.data[task.blank] = 0
    model.embedding.padding_idx = task.blank  # no gradient: a blank stays zero
    train(model, task, steps=80, batch_size=4, lr=0.02, seed=seed, label=f"{delay}")
    return accuracy(model, task.batch(4, torch.Generator().manual_seed(1)))


gate = partial(GLA, n_heads=4, expand_k=0.25, form=by_scan)
runs = {
    ("GLA, τ = 16", 16): gate,
    ("GLA, τ = 16", 1000): gate,
    ("GLA, τ = 1,600", 1000): partial(gate, tau=1600),
    ("S4D", 1000): partial(S4D, d_state=64),
}
right = {run: [copied(mixer, run[1], s) for s in SEEDS] for run, mixer in runs.items()}

# %% tags=["measured"]
print("right answers, seeds 0, 1, 2; guessing gives 25 %")
for (name, delay), found in right.items():
    print(f"{name:15} delay {delay:5,}:", "  ".join(f"{x:.0%}" for x in found))

# %% [markdown]
# Over 16 blanks the gate learns to copy. Over 1,000 it only guesses. Nothing is wrong with the equation: the third row
# differs in one constant of the *start*, and learns. To see why, ask each untrained mixer how much its last output
# depends on a token of a given age, $|\partial y_T / \partial x_s|$, the mean over eight random texts:

# %%
from seqlab.figures import state_space as figures
from seqlab.microscope import influence_by_age

lines = {}
ages = torch.unique(torch.logspace(0, 3, 80).long())
noise = torch.randn(8, 1024, 16, generator=torch.Generator().manual_seed(0))
for (name, _), mixer in list(runs.items())[1:]:
    torch.manual_seed(0)
    lines[name] = (ages.tolist(), influence_by_age(mixer(16), noise)[ages])
figures.curves(
    lines,
    title="Before training, a gate of half-life 16 is blind at 1,000 tokens",
    x="age of the token (log scale)",
    y="influence on the last output (log scale)",
    log="xy",
)

# %% [markdown]
# *What to see.* $\sigma(0)^{1/16}$ gives a half-life of 16 tokens, so at 1,000 tokens the influence has halved more
# than 60 times. The gradient that should teach the gate to stay open must pass through that same gate. With
# $\tau = 1{,}600$ the half-life is 1,600, and the curve hardly falls. S4D falls slowly too, and nobody told it the
# delay: its memory holds many time scales from the start.
#
# So a memory needs a good start. We could guess half-lives. Control theory derives them.
#
# ## 2 · HiPPO: a fit of the whole past
#
# Take one channel, a signal $x(s)$ in continuous time, and $N$ numbers to remember it. A good choice: the polynomial
# of degree $N - 1$ that fits the whole past $x(0 \dots t)$ best. As basis take $g_n(z) = \sqrt{2n+1}\,P_n(z)$, where
# the $P_n$ are Legendre's polynomials on $[-1, 1]$; they are orthogonal, so each best coefficient is a mean on its
# own:
#
# $$c_n(t) = \frac1t \int_0^t x(s)\; g_n(z)\, ds \qquad z = \frac{2s}{t} - 1$$
#
# How do they change as $t$ moves on? Differentiate. There are three places with $t$: the factor $1/t$, the end of the
# integral, where $z = 1$ and $g_n(1) = \sqrt{2n+1}$, and $z$ itself, with $\partial z / \partial t = -(z + 1)/t$:
#
# $$\frac{dc_n}{dt} = \frac1t \Bigl[ -c_n + \sqrt{2n+1}\;x(t) - \frac1t \int_0^t x(s)\,(z + 1)\, g_n'(z)\, ds \Bigr]$$
#
# The last term is again made of coefficients, by an identity of Legendre's polynomials:
# $(z+1)\,P_n' = n P_n + \sum_{k<n} (2k+1)\, P_k$. Insert it, and the past is gone from the equation:
#
# $$\frac{dc}{dt} = \frac1t\,(A\,c + B\,x) \qquad
#   A_{nk} = -\begin{cases} \sqrt{(2n+1)(2k+1)} & k < n \\ n + 1 & k = n \\ 0 & k > n \end{cases} \qquad
#   B_n = \sqrt{2n+1}$$
#
# This is HiPPO-LegS. The state $c$ and the newest input suffice to keep the best fit of everything.


# %%
def hippo(N):
    root = (2 * torch.arange(N, dtype=torch.float64) + 1).sqrt()
    decays = torch.diag(torch.arange(1, N + 1, dtype=torch.float64))
    return -(torch.outer(root, root).tril(-1) + decays), root


# %% tags=["nbval-check-output"]
import numpy as np

from seqlab.core import discretize
from seqlab.course import holds

rng = torch.Generator().manual_seed(0)


def randn(*shape):
    return torch.randn(*shape, generator=rng, dtype=torch.float64)


def same(ours, theirs):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)


def signal(t):
    return torch.sin(3 * t) + t**2


def coefficients(t, N=8):
    """c(t), the integral by Gauss's rule with 40 points."""
    z, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(40))
    x = signal(t * (z + 1) / 2)
    return (weights / 2 * x) @ figures.polynomials(z, N)


@holds
def the_best_fit_obeys_hippos_equation():
    A, B = hippo(8)
    same((A, B), discretize.hippo_legs(8))
    t = torch.tensor(1.7, dtype=torch.float64)
    c, slope = torch.func.jvp(coefficients, (t,), (torch.ones_like(t),))
    same(slope, (A @ c + B * signal(t)) / t)


# %% [markdown]
# A computer moves in steps. The bilinear rule (next section) turns the equation into a recurrence. **LegT**, from the
# same paper, has another $A$: it fits only a window of fixed length, here 64 tokens.


# %%
def remember(x, N, window=None):
    """The coefficients after each token (T, N), of all tokens or the last `window`."""
    A, B = discretize.hippo_legs(N) if window is None else discretize.hippo_legt(N)
    c, cs = torch.zeros(N, dtype=x.dtype), []
    for t, x_t in enumerate(x, 1):
        gate, gain = discretize.bilinear_matrix(A, B[:, None], 1 / (window or t))
        c = gate @ c + gain[:, 0] * x_t
        cs.append(c)
    return torch.stack(cs)


s = torch.arange(256, dtype=torch.float64)
x = torch.sin(s / 9) + 0.6 * torch.sin(s / 23 + 1) + 0.4 * torch.cos(s / 5)
fits = {
    "LegS, the whole past": (remember(x, 24), None),
    "LegT, the last 64": (remember(x, 24, 64), 64),
}
figures.online(x, fits, times=[16, 32, 48, 64, 96, 128, 160, 192, 224, 256])

# %% [markdown]
# *What to see.* Move the slider. Both memories hold 24 numbers. LegT follows its window closely and knows nothing
# older. LegS recalls the beginning too; as the past grows, the same 24 numbers must cover more, and the fit gets
# coarser everywhere. It has no half-life: its scale is the past itself. How many numbers are enough?

# %%
figures.errors_by_size(x, remember, [4, 8, 12, 16, 24, 32, 48], window=64)

# %% [markdown]
# *What to see.* With few numbers both recall almost nothing: a polynomial of degree 7 cannot have nine waves. LegT
# needs fewer than LegS, because its window holds a quarter of the signal. Its flat end is no limit of
# polynomials: it is the error of moving in steps, of which the next section treats.
#
# ## 3 · From time to tokens: three rules
#
# Drop the factor $1/t$, and what stays is a linear **state space model**, with a step of length $\Delta$ for each
# token:
#
# $$h'(t) = A\,h(t) + B\,x(t) \qquad\longrightarrow\qquad h_t = \bar A\,h_{t-1} + \bar B\,x_t$$
#
# If $A$ is diagonal, each entry of $h$ (a **mode**) goes its own way, with a rate $A_n$, often complex. Then the rules
# are three lines. *Euler* follows the tangent. *Bilinear* takes the mean of the slopes at both ends. *Zero-order hold*
# solves the equation exactly for an input that is constant during the step.


# %%
def euler(A, dt):
    return 1 + dt * A, dt


def bilinear(A, dt):
    return (1 + dt * A / 2) / (1 - dt * A / 2), dt / (1 - dt * A / 2)


def zero_order_hold(A, dt):
    a = torch.exp(dt * A)
    return a, (a - 1) / A


# %% tags=["nbval-check-output"]
@holds
def these_are_the_rules_of_seqlab():
    real, imaginary = (-randn(7).exp()).requires_grad_(), randn(7).requires_grad_()
    dt = randn(7).exp().requires_grad_()
    for rule in (euler, bilinear, zero_order_hold):
        theirs = getattr(discretize, rule.__name__)
        answers = []
        for each in (rule, theirs):
            gate, gain = each(torch.complex(real, imaginary), dt)
            loss = (gate.abs().sin() + gain.abs().cos()).sum()
            gradients = torch.autograd.grad(loss, (real, imaginary, dt))
            answers.append((gate, gain, *gradients))
        same(*answers)


# %%
from seqlab.widgets import explore

explore(lambda dt=0.1: figures.rules_at(dt), dt=(0.01, 0.5, 0.01))

# %% [markdown]
# *What to see.* Left, 16 modes with rates $-\frac12 + i\pi k$, as gates $\bar A$ in the complex plane. A gate outside
# the unit circle grows without bound. Euler's do, unless the step is tiny. Bilinear and zero-order hold keep every
# decay a decay. Right, one mode whose input is switched on: zero-order hold lies on the exact line for every step,
# because that input *is* constant. For an input that varies during a step, none of the three is exact:

# %%
figures.orders_of_rules()

# %% [markdown]
# *What to see.* Euler and zero-order hold have slope 1: the error is proportional to $\Delta$. The bilinear rule has
# slope 2.
# (It is given the mean of the input at both ends of the step, as its derivation asks. Models give it $x_t$ alone, and
# then its slope is 1 as well.)
#
# ## 4 · S4: one system, two readings
#
# Now stack tokens. Unroll the recurrence, with a read $y_t = C h_t$:
#
# $$y_t = \sum_{l \ge 0} \underbrace{C\,\bar A^{\,l}\,\bar B}_{K_l}\; x_{t-l}$$
#
# Nothing in $K_l$ depends on the input. So the layer is a **convolution** with a fixed kernel, and the FFT computes
# all $y_t$ at once in $T \log T$. To train, convolve; to decode, carry $h$. The course's equation says the same: one
# channel is a head with $V = 1$, $v_t = x_t$, $k = \bar B$, $q = C$ and a gate that never changes.


# %%
def recurrence(A, B, C, x):
    h, ys = torch.zeros_like(B), []
    for x_t in x:
        h = A @ h + B * x_t
        ys.append(C @ h)
    return torch.stack(ys)


def convolution(A, B, C, x):
    powers, h = [], B
    for _ in x:
        powers.append(C @ h)  # K_l = C A^l B
        h = A @ h
    n = 2 * len(x)  # room for the tail: the FFT's circle must not close
    spectrum = torch.fft.rfft(torch.stack(powers), n) * torch.fft.rfft(x, n)
    return torch.fft.irfft(spectrum, n)[: len(x)]


# %% tags=["nbval-check-output"]
@holds
def a_fixed_recurrence_is_a_convolution():
    A, B = hippo(6)
    A, B = discretize.bilinear_matrix(A, B[:, None], 0.05)
    inputs = A.requires_grad_(), B[:, 0].requires_grad_(), randn(6).requires_grad_()
    x = randn(37).requires_grad_()
    answers = []
    for form in (recurrence, convolution):
        y = form(*inputs, x)
        answers.append((y, *torch.autograd.grad(y.sin().sum(), (*inputs, x))))
    same(*answers)


# %% [markdown]
# **S4** takes HiPPO's $A$ for this, with a step $\Delta$ of its own for each channel. The obstacle is the kernel: $N
# \times N$ powers for every channel. A diagonal $A$ would make powers trivial, but HiPPO's eigenvectors are so nearly
# parallel that changing to them loses all digits. S4's way out: add one rank-one matrix. $A + p\,p^\top$ with $p_n =
# \sqrt{n + 1/2}$ *is* well behaved ($-\frac12$ plus an antisymmetric matrix), so $A$ is **diagonal plus low rank** in
# a good basis. Its kernel then follows from a generating function and four inner products. `seqlab.core.rank_one` has
# the code; chapter 08 comes back to gates of this shape.
#
# **S4D** just drops the rank-one part. What remains: rates $A_n = -\frac12 + i\omega_n$. The frequencies $\omega_n$ are
# a choice: those of HiPPO's $A$, or simply $\omega_n = \pi n$, as here. A kernel is then a sum of fading waves, and the
# layer is short:

# %% tags=["nbval-check-output"]
import torch.nn.functional as F


def our_s4d(layer, x):
    """S4D's forward: only the weights are `layer`'s."""
    A = torch.complex(-layer.A_log.exp(), layer.A_imag)  # (D, N/2)
    a, b = zero_order_hold(A, layer.log_dt.exp()[:, None])
    c = torch.view_as_complex(layer.C)
    powers = a[..., None] ** torch.arange(x.shape[1])  # (D, N/2, T)
    kernel = 2 * torch.einsum("dn, dnl -> dl", c * b, powers).real  # 2: the conjugates
    n = 2 * x.shape[1]
    spectrum = torch.fft.rfft(kernel.mT, n, dim=0) * torch.fft.rfft(x, n, dim=1)
    y = torch.fft.irfft(spectrum, n, dim=1)[:, : x.shape[1]]
    return F.glu(layer.out(F.gelu(y + layer.skip * x)))


@holds
def our_layer_is_seqlabs_s4d():
    layer, x = S4D(6, d_state=8).double(), randn(2, 41, 6)
    answers = []
    for y in (our_s4d(layer, x), layer(x)[0]):
        answers.append((y, *torch.autograd.grad(y.sin().sum(), [*layer.parameters()])))
    same(*answers)


# %% [markdown]
# This is the model of section 1's last row. It learned the delay of 1,000 because its steps $\Delta$ are drawn from
# 0.001 to 0.1: half-lives $\ln 2 / (\frac12 \Delta)$ from 14 to 1,400 tokens, in the same layer. $\Delta$ is the
# ruler of a channel.
#
# ## 5 · Diagonal is enough: a family
#
# Once $A$ is diagonal, a few choices are left, and each has a name.
#
# | | rates | state | the line that differs |
# |---|---|---|---|
# | S4 | HiPPO, diagonal + rank one | N per channel | the modes still mix |
# | S4D | $-\frac12 + i\omega_n$ | N per channel | no rank one |
# | S4D-Real | $-(n + 1)$ | N per channel | no waves; Mamba starts here |
# | DSS | HiPPO's frequencies | N per channel | one set of rates for all channels |
# | GSS | learned from noise | N per channel | a narrow state space between wide gates |
# | S5 | HiPPO's frequencies | one state for all channels | full $B$ and $C$; scanned, not convolved |
# | LRU | none: $\lambda$ itself | one state for all channels | $\lambda$ on a ring, no continuous time |

# %%
from seqlab.microscope import modes_of
from seqlab.zoo import ZOO

NAMES = ["S4", "S4D", "S4D-Real", "DSS", "GSS", "S5", "LRU", "Mamba"]
rows = {row.name: row for row in ZOO if row.name in NAMES}
torch.manual_seed(0)
figures.modes({name: modes_of(rows[name].make(16), 256) for name in NAMES})

# %% [markdown]
# *What to see.* Move the slider. Left, the gates of an untrained layer in the unit circle; right, kernels of four
# channels. Most begin near 1, the point of long memory. LRU fills the disc evenly, so most of its modes are short;
# its authors narrow the ring for long tasks. S4's eigenvalues are real, yet its kernels swing: that is the badly
# conditioned basis at work. (Mamba's are drawn for an input of zero.) The same eight memories, reading the same
# tokens:

# %%
from seqlab import figures as course_figures
from seqlab.microscope import observe

letters = list("abcabdabeabf")
x = randn(26, 16).float()[[ord(c) - ord("a") for c in letters]][None]
torch.manual_seed(0)
traces = {name: observe(rows[name].make(16), x, letters) for name in NAMES}


def memory(mixer="S4D", t=11):
    return course_figures.microscope(traces[mixer], t)


explore(memory, mixer=NAMES, t=(0, 11))

# %% [markdown]
# *What to see.* Choose a mixer, then move through the tokens. Except in Mamba, the panel of weights has the same
# values along each diagonal: only age counts, whatever the token. That is what "convolution" means, and section 7
# shows what it costs.
#
# ## 6 · The parallel scan
#
# S5, LRU and Mamba do not convolve. They need all $h_t = a_t h_{t-1} + b_t$ without a loop over $t$. One step is a map
# $h \mapsto a h + b$, the pair $(a, b)$. Two steps in a row are again one step:
#
# $$(a_2, b_2) \circ (a_1, b_1) = (a_2 a_1,\; a_2 b_1 + b_2)$$
#
# The operator is **associative**: brackets may be placed anywhere. (An RNN's $\tanh(R h + Wx)$ has no such short form;
# chapter 02 left it there.) So join neighbours first, all pairs at once; find the prefixes of the pairs, half as many;
# one more join fills the gaps.


# %%
def prefixes(op, xs):
    """x_0, x_1∘x_0, x_2∘x_1∘x_0, …: Blelloch's tree. Elements lie along axis 0."""
    if len(xs[0]) == 1:
        return xs
    evens, odds = ([x[i::2] for x in xs] for i in (0, 1))
    n = len(odds[0])
    at_odds = prefixes(op, op([x[:n] for x in evens], odds))
    rest = op([x[: len(evens[0]) - 1] for x in at_odds], [x[1:] for x in evens])
    at_evens = [torch.cat([x[:1], y]) for x, y in zip(evens, rest, strict=True)]
    whole = [torch.empty_like(x) for x in xs]
    for x, even, odd in zip(whole, at_evens, at_odds, strict=True):
        x[::2], x[1::2] = even, odd
    return whole


def join(first, second):
    (a1, b1), (a2, b2) = first, second
    return [a2 * a1, a2 * b1 + b2]


# %% tags=["nbval-check-output"]
from seqlab.core import scan


@holds
def a_tree_of_joins_is_the_recurrence():
    for T in (2, 7, 37, 64):
        a, b = (randn(T, 3).sigmoid().requires_grad_(), randn(T, 3).requires_grad_())
        answers = []
        for h in (prefixes(join, [a, b])[1], scan.linear_scan(a[None], b[None])[0]):
            answers.append((h, *torch.autograd.grad(h.sin().sum(), (a, b))))
        same(*answers)


@holds
def the_same_tree_takes_any_associative_operator():
    x = randn(37)
    (maximum,) = prefixes(lambda p, q: [torch.maximum(p[0], q[0])], [x])
    same(maximum, x.cummax(0).values)
    M = randn(9, 3, 3)
    (product,) = prefixes(lambda p, q: [q[0] @ p[0]], [M])
    same(product[-1], torch.linalg.multi_dot(list(M.flip(0))))


# %%
figures.scan_steps(16)

# %% [markdown]
# *What to see.* Each row is a step, each dot a token; its colour is the number of tokens summed so far, and a dark
# ring marks a finished prefix. Hillis-Steele joins every token with the one 1, 2, 4, … before it: done in 4 steps.
# Blelloch's tree goes up and down again: 7 steps, but fewer joins. `seqlab.core.scan` counts both:

# %% tags=["nbval-check-output"]
forms = ("sequential", "hillis_steele", "blelloch", "chunked")
print(f"{'T':>6}" + "".join(f"{form:>24}" for form in forms))
for T in (16, 256, 4096):
    costs = [scan.FORMS[form](*randn(2, 1, T), return_cost=True)[1] for form in forms]
    cells = [f"{c.work:,} joins, {c.depth:,} deep" for c in costs]
    print(f"{T:6,}" + "".join(f"{cell:>24}" for cell in cells))

# %% [markdown]
# **Work** is the number of joins, **depth** the number that wait for one another. A loop has the least work and the
# greatest depth. Hillis-Steele buys the least depth with about $T \log_2 T$ joins; Blelloch's tree needs about $2T$
# joins and twice the depth. With a few cores the chunked form is a good compromise, and `linear_scan` is that.
#
# ## 7 · Mamba: time itself is chosen
#
# Now a task that no fixed kernel fits. *Selective copying*: two of four symbols lie at random places among 24 tokens;
# the rest are blanks. Then the latest symbol is asked for, then the one before. What counts is the *order* of the
# symbols; their ages say nothing. Four models learn it, in one layer of width 32; 150 steps, learning rate 0.02.
#
# - **S4D**: as before.
# - **Mamba**: the answer of this section; without its short convolution (`d_conv=1`), so only the memory is tested.
# - **Mamba, Δ fixed**: the same, except that the step Δ may not depend on the token.
# - **Mamba, with convolution**: the whole block.

# %%
from seqlab.mixers import Mamba
from seqlab.tasks import SelectiveCopy

task = SelectiveCopy(n_symbols=4, n_marked=2, length=24)


def fixed_step(d_model):
    mixer = Mamba(d_model, d_state=8, d_conv=1)
    mixer.dt_proj.weight.data.zero_()
    mixer.dt_proj.weight.requires_grad_(False)
    return mixer


def selective(mixer, seed):
    torch.manual_seed(seed)
    model = LanguageModel(task.vocab, 32, [mixer], ffn=None)
    train(model, task, steps=150, batch_size=24, lr=0.02, seed=seed, label="copying")
    return model


models = {
    "S4D": partial(S4D, d_state=64),
    "Mamba": partial(Mamba, d_state=8, d_conv=1),
    "Mamba, Δ fixed": fixed_step,
    "Mamba, with convolution": partial(Mamba, d_state=8),
}
models = {name: [selective(m, s) for s in SEEDS] for name, m in models.items()}

# %% [markdown]
# **Before you read on**, commit to an answer. S4D kept a symbol over 1,000 blanks. Here the text is 24 tokens long. And
# then each trained model is asked about longer texts, with the same two symbols among more blanks.

# %% tags=["measured"]
from seqlab.course import predict
from seqlab.figures.retention import accuracy as accuracy_figure

LENGTHS = [24, 48, 96, 192]


def against_length():
    held_out = torch.Generator().manual_seed(10_000)
    batches = [SelectiveCopy(4, 2, L).batch(100, held_out) for L in LENGTHS]
    found = {
        name: (LENGTHS, [[accuracy(m, b) for b in batches] for m in seeds])
        for name, seeds in models.items()
    }
    return accuracy_figure(
        found,
        title="Chosen steps alone copy at any length tried; a fixed kernel does not",
        x="tokens, of which two are symbols (log scale)",
        chance=1 / 4,
        log=True,
        marks={"trained at this length": 24},
    )


predict(
    "06-selective",
    "Trained on 24 tokens, how often does S4D answer right on 192?",
    against_length,
    choices=["nearly always", "more than half", "little more than guessing"],
)

# %% [markdown]
# *What to see.* S4D comes close at the length of its training, because a stack of kernels and a nonlinear read can
# tell most gaps of up to 24 apart. That does not extend: at 192 tokens it is near guessing. "Nearly always" confuses
# *how long* a memory lasts with *what it counts*: S4D counts tokens. Mamba counts symbols, and the blanks make no
# difference. With Δ fixed, B and C still depend on the token, and they alone help less. The convolution gave training
# an easier way that does not extend as well. (Means of three seeds, bars from lowest to highest. One task, one width,
# one learning rate.)
#
# What did Mamba learn? The recurrence is that of S4D-Real, zero-order hold for $A$, but $\Delta$, $B$ and $C$ come
# from the token:
#
# $$h_t = e^{\Delta_t A}\, h_{t-1} + \Delta_t B_t\, x_t \qquad y_t = C_t \cdot h_t
#   \qquad \Delta_t = \mathrm{softplus}(W x_t + b)$$
#
# $\Delta_t$ is the time that passes at this token. If $\Delta_t \approx 0$, no time passes: the gate is 1 and nothing
# is written. If it is large, the past fades and the token goes in.

# %% tags=["measured"]
words = [*"··a·····c·····", "?1", "?2"]
vocabulary = [task.word(i) for i in range(task.vocab)]
tokens = torch.tensor([[vocabulary.index(w) for w in words]])


def steps_of(model):
    """The block's input, Δ (T, E), and what each channel keeps over a blank (E,)."""
    block = model.blocks[0]
    u = block.mixer_norm(model.embedding(tokens)).detach()
    log_a = block.mixer.project(u)["log_a"][0].detach()  # (T, E, N)
    rate = block.mixer.A_log[:, 0].exp().detach()
    return u, -log_a[..., 0] / rate, log_a[0].exp().amax(-1)


u, delta, kept = steps_of(models["Mamba"][0])
still = kept > 0.99
figures.openings(
    words,
    delta,
    title=f"At a blank, {still.sum()} of {len(still)} channels stand still",
)

# %% [markdown]
# *What to see.* A row is a channel; it is lighter where Δ is smaller. In the upper rows Δ is practically 0 at blanks,
# and a hundred times larger at symbols. These channels age by one step per *symbol*, so what is asked for has a fixed
# age again. The rows at the bottom do the opposite: they open at blanks, and so lose whatever came before. Which of
# the two answers? Let only one kind reach the output:

# %% tags=["measured"]
batch = task.batch(200, torch.Generator().manual_seed(1))


def right_with(model, channels):
    """The share of right answers if only these channels reach the output."""
    out = model.blocks[0].mixer.out.weight.data
    whole = out.clone()
    out *= channels
    right = accuracy(model, batch)
    out.copy_(whole)
    return right


print(
    "seed   channels that keep 99 % over a blank   right with these   with the others"
)
for seed, model in enumerate(models["Mamba"]):
    keeps = steps_of(model)[2] > 0.99
    found = [right_with(model, c) for c in (keeps, ~keeps)]
    print(f"{seed:4}{keeps.sum():25} of {len(keeps)}{found[0]:21.0%}{found[1]:18.0%}")

# %% [markdown]
# The channels that stand still answer alone. The others, alone, do little better than guessing. Here is one of the
# first kind under the microscope:

# %% tags=["measured"]
channel = int((delta[2] * still).argmax())  # of those, the widest open at `a`
mamba_trace = observe(models["Mamba"][0].blocks[0].mixer, u, words, head=channel)
explore(lambda t=9: course_figures.microscope(mamba_trace, t), t=(0, len(words) - 1))

# %% [markdown]
# *What to see.* The state changes at `a` and at `c`, and rests at each blank.
#
# The price: $K_l$ would now depend on the token, so there is no kernel and no FFT. That is why Mamba is *scanned*.
# Here is the scan as a loop, and the whole block.


# %%
def selective_scan(x, dt, A, B, C):
    """x and dt (B, T, E), A (E, N), B and C (B, T, N)."""
    h, ys = x.new_zeros(len(x), *A.shape), []
    for t in range(x.shape[1]):
        step = dt[:, t, :, None]  # (B, E, 1)
        write = step * B[:, t, None] * x[:, t, :, None]  # Euler
        h = torch.exp(step * A) * h + write  # zero-order hold
        ys.append((h * C[:, t, None]).sum(-1))
    return torch.stack(ys, dim=1)


def our_mamba(layer, u):
    x, z = layer.in_proj(u).chunk(2, dim=-1)
    x = F.pad(x.mT, (3, 0))  # the short convolution sees 3 tokens back
    weight, bias = layer.conv.weight[:, None], layer.conv.bias
    x = F.silu(F.conv1d(x, weight, bias, groups=len(bias)).mT)
    dt, B, C = layer.x_proj(x).split(layer.widths, dim=-1)
    dt = F.softplus(layer.dt_proj(dt))
    y = selective_scan(x, dt, -layer.A_log.exp(), B, C) + layer.D * x
    return layer.out(y * F.silu(z))


# %% tags=["nbval-check-output"]
from seqlab.mixers.mamba import selective_scan as theirs


@holds
def our_scan_is_seqlabs_selective_scan():
    x, dt, A = randn(2, 19, 3), randn(2, 19, 3).exp(), -randn(3, 4).exp()
    inputs = [u.requires_grad_() for u in (x, dt, A, randn(2, 19, 4), randn(2, 19, 4))]
    answers = []
    for y in (selective_scan(*inputs), theirs(*inputs)[0][..., 0]):
        answers.append((y, *torch.autograd.grad(y.sin().sum(), inputs)))
    same(*answers)


@holds
def our_block_is_seqlabs_mamba():
    layer, x = Mamba(16).double(), randn(2, 23, 16)
    same(our_mamba(layer, x), layer(x)[0])


# %% [markdown]
# In the course's equation each channel is a head with $V = 1$: $q = C_t$, $k = B_t$, $v = \Delta_t x_t$ and a gate
# $\Delta_t A$ for each key channel, as in GLA. Control theory and chapter 05 have arrived at the same place.
#
# ## 8 · In the wild
#
# State space models went into production as Mamba: Falcon Mamba is built of it alone, Jamba mostly. Their state
# for one sequence, in float32, beside the keys and values that Llama 3.1 8B keeps *per token* in bfloat16:

# %% tags=["nbval-check-output"]
from seqlab.zoo import RECIPES

sizes = {row.name: row.published for row in RECIPES}
llama = sizes["Transformer 2026"]["Llama 3.1 8B"]
width = llama["d_model"] // llama["n_heads"]
per_token = 2 * llama["n_layers"] * llama["n_kv_heads"] * width * 2
print(f"Llama 3.1 8B: {per_token / 2**10:,.0f} KiB for each token")
falcon = sizes["Falcon Mamba"]["7B"]
inner = falcon["expand"] * falcon["d_model"]
state = falcon["n_layers"] * inner * (falcon["d_state"] + falcon["d_conv"] - 1) * 4
print(
    f"Falcon Mamba 7B: {state / 2**20:.0f} MiB in all,"
    f" like {state / per_token:.0f} tokens"
)

# %% [markdown]
# The state includes the last inputs of the short convolution. For any length of text, it costs what a paragraph
# costs a transformer. What a paragraph's worth of numbers cannot hold is the subject of chapter 19.
#
# ### Fact check
#
# **"Mamba discretises A and B by zero-order hold."** The paper's text gives that formula; its code uses Euler for $B$,
# $\Delta B$ instead of $A^{-1}(e^{\Delta A} - 1) B$. How much is that at the start of training?

# %% tags=["nbval-check-output"]
torch.manual_seed(0)
layer = Mamba(64).double()
dt = F.softplus(layer.dt_proj.bias)[:, None]
_, hold = discretize.zero_order_hold(-layer.A_log.exp(), dt)
ratio = dt / hold
print(f"Euler's B over zero-order hold's: {ratio.min():.2f} to {ratio.max():.2f}")

# %% [markdown]
# Little for slow modes, and up to about a factor of 2 for the fastest. Both models train; weights of one give wrong
# outputs in the other.
#
# **"HiPPO is what makes these models work."** It showed the way. But LRU reaches long range with a ring and no HiPPO,
# Mamba starts from plain decays $-1 \dots -N$, and in section 1 a GLA with slower gates did the job. What they share
# is a start with long and varied half-lives.
#
# ## 9 · Practise
#
# In a terminal, `seqlab start 06` puts your own copy of the exercises into `work/`.

# %% [markdown] tags=["exercises"]
# The table of exercises is made from their files.

# %% [markdown]
# The notebook is [exercises/06_state_spaces.ipynb](../exercises/06_state_spaces.ipynb); work on the copy in `work/`.
#
# ## Recap, in five lines
#
# 1. A gate learns only as far as it sees, and at first it sees a few of its starting half-lives.
# 2. HiPPO keeps the best polynomial fit of the past in $N$ numbers, by a linear equation. Bilinear and zero-order hold
#    turn it into a stable recurrence; Euler may explode.
# 3. A fixed recurrence is a convolution: trained by the FFT, decoded by its state. Diagonal rates are enough.
# 4. Steps $(a, b)$ compose by an associative operator, so any linear recurrence can be scanned in logarithmic depth.
# 5. A fixed kernel counts tokens. Mamba's Δ chooses how much time passes; on our task it counts symbols, at any length
#    tried. The price is the convolution.
#
# Next, chapter 07: make the scan out of matrix products.
#
# ## Further: the shift SSM
#
# H3 (chapter 12) puts a second, odd state space in front of its memory: $A$ moves each entry of $h$ one place down,
# and $B$ writes into the first. The state is then a list of the last $N$ inputs, and the kernel is $C$ itself, any
# $N$ taps. A short convolution *is* a state space with a **shift** matrix, and Mamba's `d_conv` has the same role:


# %% tags=["nbval-check-output"]
@holds
def a_shift_is_a_short_convolution():
    one = torch.eye(4).double()
    A, B, C = one.roll(1, 0).tril(), one[0], randn(4)
    x = randn(31)
    expected = F.conv1d(F.pad(x, (3, 0))[None, None], C.flip(0)[None, None])[0, 0]
    same(recurrence(A, B, C, x), expected)


# %% [markdown]
# ## References
#
# - A. Gu et al. [*HiPPO: Recurrent Memory with Optimal Polynomial
#   Projections.*](https://arxiv.org/abs/2008.07669) 2020.
# - A. Gu, K. Goel, C. Ré. [*Efficiently Modeling Long Sequences with Structured State
#   Spaces*](https://arxiv.org/abs/2111.00396) (S4). 2021.
# - A. Gupta, A. Gu, J. Berant. [*Diagonal State Spaces are as Effective as Structured State
#   Spaces*](https://arxiv.org/abs/2203.14343) (DSS). 2022.
# - A. Gu et al. [*On the Parameterization and Initialization of Diagonal State Space
#   Models*](https://arxiv.org/abs/2206.11893) (S4D). 2022.
# - H. Mehta et al. [*Long Range Language Modeling via Gated State
#   Spaces*](https://arxiv.org/abs/2206.13947) (GSS). 2022.
# - J. Smith, A. Warrington, S. Linderman. [*Simplified State Space Layers for Sequence
#   Modeling*](https://arxiv.org/abs/2208.04933) (S5). 2022.
# - D. Fu et al. [*Hungry Hungry Hippos*](https://arxiv.org/abs/2212.14052) (H3, the shift SSM). 2022.
# - A. Orvieto et al. [*Resurrecting Recurrent Neural Networks for Long Sequences*](https://arxiv.org/abs/2303.06349)
#   (LRU). 2023.
# - A. Gu, T. Dao. [*Mamba: Linear-Time Sequence Modeling with Selective State
#   Spaces.*](https://arxiv.org/abs/2312.00752) 2023.
# - S. Yang et al. [*Gated Linear Attention Transformers*](https://arxiv.org/abs/2312.06635) (GLA). 2023.
# - G. Blelloch. *Prefix Sums and Their Applications.* 1990. · D. Hillis, G. Steele. *Data Parallel Algorithms.* 1986.
