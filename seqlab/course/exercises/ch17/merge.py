r"""Project: one expert out of two

*Merge two experts whose hidden units do not line up. · 25 minutes · ●●● · 3 points*

Two experts, $E(x) = W_\text{out}\,\mathrm{relu}(W_\text{in}\,x)$, have learned nearly the same. But hidden units have no order: unit 3 of one may do the work of unit 7 of
the other. And they have no scale: a unit may read twice as strongly if it is written half as strongly, since $\mathrm{relu}(2u) = 2\,\mathrm{relu}(u)$. So the mean of the weights, which
worked for the linear experts of the chapter, computes nothing of use.

Write `merge`. It gets the weights of both experts and how many tokens each has served, and returns one expert of the same size, `(w_in, w_out)` in
float32. Measured on fresh inputs, its output must

- agree with two experts that are the same but for order and scale, exactly;
- be better than either expert alone, where each is the same function plus noise of its own: averaging removes noise;
- lean to the expert that has served more, in proportion to the tokens.

The inputs must stay as they are.
"""

import torch

from seqlab.course.exercise import Case, Requirement


def merge(a_in, a_out, b_in, b_out, tokens):
    """One expert (w_in, w_out) in place of two.

    a_in, b_in (F, D), a_out, b_out (D, F). tokens: two numbers, served by a and by b.
    """
    ### BEGIN SOLUTION
    share = tokens[0] / (tokens[0] + tokens[1])
    units, ends = [], []
    for w_in, w_out in ((a_in, a_out), (b_in, b_out)):
        read, write = w_in.norm(dim=1), w_out.norm(dim=0)
        # so that a unit reads and writes equally strongly
        scale = (write / read).sqrt()
        units.append(torch.cat([w_in * scale[:, None], (w_out / scale).T], dim=1))
        ends.append(w_in.shape[1])
    a, b = units
    alike = (a @ b.T).clone()
    partner = torch.zeros(len(a), dtype=torch.int64)
    for _ in range(len(a)):  # the closest pair first; each unit once
        i, j = divmod(alike.argmax().item(), len(b))
        partner[i] = j
        alike[i], alike[:, j] = -torch.inf, -torch.inf
    mean = share * a + (1 - share) * b[partner]
    return mean[:, : ends[0]].contiguous(), mean[:, ends[0] :].T.contiguous()
    ### END SOLUTION


WHY = r"""
**Solution.** A network of one hidden layer is a *set* of units. So bring each unit to a standard form first (it reads and writes equally strongly), then find for each unit of
one expert its partner in the other, then take the mean by load. Here the most similar pair is taken first, and each unit once; an optimal assignment (the Hungarian method) does
not differ unless the experts do.

Both ends of a unit tell who it is: what it reads *and* what it writes. With the read alone, two units that read the same and write differently are mixed up.

**What it means.** Averaging networks (model soups, merging of experts, federated learning) works without this step only if they started from the same weights and did not move far.
For experts that were copied from one dense layer ("upcycled") that is the case; for experts trained apart it is not.
"""

HINTS = (
    "A hidden unit is a row of w_in with a column of w_out. Which changes of the units leave the function as it is?",
    "Give each unit a standard scale, sqrt(|write| / |read|) times the read. Then match units of a and b by the dot product of (read, write), each once.",
    "alike = a @ b.T with a, b (F, 2D); repeat: i, j of the largest entry, partner[i] = j, set row i and column j to -inf; mean = share * a + (1 - share) * b[partner].",
)


def _expert(rng, F, D):
    return torch.randn(F, D, generator=rng), torch.randn(D, F, generator=rng) / F**0.5


def _disguised(rng, w_in, w_out, stretch=1.0):
    """The same function: units in another order, and on another scale."""
    order = torch.randperm(len(w_in), generator=rng)
    c = torch.exp(stretch * torch.randn(len(w_in), generator=rng))
    return (c[:, None] * w_in)[order], (w_out / c)[:, order]


def _noisy(rng, w, size):
    """Noise in proportion to the weights, for reads and writes."""
    return [u + size * u.std() * torch.randn(u.shape, generator=rng) for u in w]


def cases(rng):
    def case(name, F, D, *, noise=0.0, stretch=1.0, tokens=(1000, 1000)):
        w = _expert(rng, F, D)
        a = _noisy(rng, w, noise)
        b = _disguised(rng, *_noisy(rng, w, noise), stretch)
        names = ("a_in", "a_out", "b_in", "b_out")
        inputs = dict(zip(names, (*a, *b), strict=True))
        return Case(name, inputs | {"tokens": tokens})

    def far(name, F, D, tokens):
        """b is 1.3 times the function of a, in disguise."""
        w_in, w_out = _expert(rng, F, D)
        b_in, b_out = _disguised(rng, w_in, 1.3 * w_out)
        inputs = {"a_in": w_in, "a_out": w_out, "b_in": b_in, "b_out": b_out}
        return Case(name, inputs | {"tokens": tokens})

    return [
        case("the same, in another order", 12, 6, stretch=0.0),
        case("the same, in another order and scale", 16, 8),
        case("noise, equal loads", 24, 10, noise=0.15),
        far("a serves nine tokens in ten", 12, 6, (9000, 1000)),
        far("b serves nine tokens in ten", 12, 6, (1000, 9000)),
    ]


def _run(w_in, w_out, seed=0):
    x = torch.randn(400, w_in.shape[1], generator=torch.Generator().manual_seed(seed))
    return torch.relu(x @ w_in.float().T) @ w_out.float().T


def _gap(one, other):
    """The mean square difference of two experts, as a share of the second's mean square."""
    a, b = _run(*one), _run(*other)
    return ((a - b).square().mean() / b.square().mean()).item()


def _given(i):
    return (i["a_in"], i["a_out"]), (i["b_in"], i["b_out"])


def shapes(inputs, values):
    right = all(
        w_in.shape == i["a_in"].shape
        and w_out.shape == i["a_out"].shape
        and w_in.dtype == w_out.dtype == torch.float32
        and torch.isfinite(w_in).all()
        and torch.isfinite(w_out).all()
        for i, (w_in, w_out) in zip(inputs, values, strict=True)
    )
    return bool(right), "as asked" if right else "not as asked"


def order(inputs, values):
    found = _gap(values[0], _given(inputs[0])[0])
    return found < 1e-4, f"error {found:.2%}"


def scale(inputs, values):
    found = _gap(values[1], _given(inputs[1])[0])
    return found < 1e-4, f"error {found:.2%}"


def noise(inputs, values):
    """Each expert is off by its own noise, so they differ by about twice what one is off by. The
    merged one must be nearer to each than they are to each other: a quarter, were all linear.
    """
    a, b = _given(inputs[2])
    apart = _gap(a, b)
    found = max(_gap(values[2], a), _gap(values[2], b))
    return found < 0.45 * apart, f"{found:.1%} from each, which are {apart:.1%} apart"


def lean(inputs, values):
    """In `far` the merged function should be 1.03 and 1.27 times a's."""
    found = []
    for i, value, wanted in zip(inputs[3:], values[3:], (1.03, 1.27), strict=True):
        a = _run(*_given(i)[0])
        times = ((_run(*value) * a).mean() / a.square().mean()).item()
        found.append(abs(times - wanted))
    return max(found) < 0.02, f"off by {max(found):.3f}"


REQUIREMENTS = (
    Requirement(
        "one expert of the same size, in float32",
        shapes,
        "The shapes or types are not as asked: w_in (F, D) and w_out (D, F), in float32, all finite.",
    ),
    Requirement(
        "units in another order",
        order,
        "Two experts that differ only in the order of their units do not merge to themselves: which unit of b belongs to which unit of a?",
    ),
    Requirement(
        "units on another scale",
        scale,
        "Order is no problem, scale is: a unit that reads twice as strongly and writes half as strongly is the same unit. Bring units to one scale before matching and averaging.",
    ),
    Requirement(
        "noise is averaged",
        noise,
        "Two noisy copies do not average: the merged expert is hardly nearer to both than they are to each other. Is it a mean, and is every unit matched once?",
    ),
    Requirement(
        "the busier expert counts for more",
        lean,
        "The loads are not followed: an expert that served nine tokens in ten counts for nine tenths of the mean.",
    ),
)

OUTPUTS = ("w_in", "w_out")


def _unit_reads(a_in, a_out, b_in, b_out, tokens):
    """Reads of length 1, and each unit of a takes its most similar one of b if nobody has it yet."""
    sides = []
    for w_in, w_out in ((a_in, a_out), (b_in, b_out)):
        c = w_in.norm(dim=1)
        sides.append((w_in / c[:, None], w_out * c))
    (ai, ao), (bi, bo) = sides
    alike = ai @ bi.T + torch.nn.functional.cosine_similarity(
        ao.T[:, None], bo.T[None], dim=-1
    )
    free, pick = set(range(len(bi))), []
    for row in alike:
        j = max(free, key=lambda j: row[j].item())
        free.remove(j)
        pick.append(j)
    u, v = (t / sum(tokens) for t in tokens)
    return u * ai + v * bi[pick], u * ao + v * bo[:, pick]


def _onto_a(a_in, a_out, b_in, b_out, tokens):
    """b's units on the scale of their partners in a."""
    ra, rb = a_in.norm(dim=1), b_in.norm(dim=1)
    a = torch.cat([a_in / ra[:, None], (a_out * ra).T], 1)
    b = torch.cat([b_in / rb[:, None], (b_out * rb).T], 1)
    partner = torch.cdist(a, b).argmin(1)
    c = (ra / rb[partner])[:, None]
    p = tokens[0] / sum(tokens)
    w_in = p * a_in + (1 - p) * c * b_in[partner]
    return w_in, p * a_out + (1 - p) * b_out[:, partner] / c.T


def _strong_matching(a_in, a_out, b_in, b_out, tokens):
    """By what a unit does as a whole: the matrix write · readᵀ, which has no scale."""
    pa = torch.einsum("df, fe -> fde", a_out, a_in).flatten(1)
    pb = torch.einsum("df, fe -> fde", b_out, b_in).flatten(1)
    partner = torch.cdist(pa, pb).argmin(1)
    c = a_in.norm(dim=1) / b_in[partner].norm(dim=1)
    p = tokens[0] / sum(tokens)
    w_in = p * a_in + (1 - p) * c[:, None] * b_in[partner]
    return w_in, p * a_out + (1 - p) * b_out[:, partner] / c


ALTERNATIVES = (_unit_reads, _onto_a, _strong_matching)

MISTAKES = """
mean[:, ends[0] :].T.contiguous() → mean[:, ends[0] :].contiguous()
    The shapes or types are not as asked: w_in (F, D) and w_out (D, F), in float32, all finite.
b[partner] → b
    Two experts that differ only in the order of their units do not merge to themselves: which unit of b belongs to which unit of a?
scale = (write / read).sqrt() → scale = 0 * read + 1
    Order is no problem, scale is: a unit that reads twice as strongly and writes half as strongly is the same unit. Bring units to one scale before matching and averaging.
share * a + (1 - share) * b[partner] → a if share >= 0.5 else b[partner]
    Two noisy copies do not average: the merged expert is hardly nearer to both than they are to each other. Is it a mean, and is every unit matched once?
share = tokens[0] / (tokens[0] + tokens[1]) → share = 0.5
    The loads are not followed: an expert that served nine tokens in ten counts for nine tenths of the mean.
"""
