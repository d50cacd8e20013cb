r"""Project: a ring in which nobody waits

*Place the blocks of texts on devices, so that all have the same work. · 30 minutes · ●●● · 3 points*

W devices hold a row of n blocks of tokens, n / W blocks each. In every turn of the ring each device reads the keys and values of one device (first its own, then those of the device before it, and so on), and
computes the tiles in which its queries see those keys: a whole tile costs 1, a tile on the diagonal ½. A turn lasts until the busiest device has finished.

Placed in order, device 0 has nothing to do in most turns: causality hides the keys that arrive. And a row often holds several texts, one after another: a block sees only earlier blocks of its own text, and itself. Write
`place(lengths, W)`: `lengths` are the numbers of blocks of the texts, in order, with Σ lengths = n a multiple of 2W. Return a tensor of n whole numbers (int64): the device of every block. It must be so that

- every device gets n / W blocks;
- with several texts, the busiest device has, over all turns, at most 5 % more work than the mean;
- with a single text it has at most 25 % more, and *each turn* is balanced: the turns together last at most 2 % longer than if the work were spread evenly over devices and turns alike.

How you do it is up to you: a rule, a search, two cases.
"""

import torch

from seqlab.course.exercise import Case, Requirement


def place(lengths, W):
    """The device, 0 … W - 1, of each of the sum(lengths) blocks: (n,) of int64. W: the number of devices."""
    ### BEGIN SOLUTION
    cost = torch.cat([torch.arange(n) for n in lengths]) + 0.5
    n = len(cost)
    if len(lengths) == 1:  # pairs: the cheapest block goes with the dearest
        turn = torch.arange(n) % (2 * W)
        return torch.minimum(turn, 2 * W - 1 - turn)
    device, load, room = torch.zeros(n, dtype=torch.long), [0.0] * W, [n // W] * W
    for block in cost.argsort(descending=True).tolist():
        free = [d for d in range(W) if room[d]]
        d = min(free, key=lambda d: load[d])  # the dearest block to the idlest device
        device[block] = d
        load[d] += float(cost[block])
        room[d] -= 1
    return device
    ### END SOLUTION


WHY = r"""
**Solution.** Block i of a text costs i + ½ tiles. In a single text give each device the pair (r, 2W - 1 - r): the sum is the same for all. Each turn is balanced as well. When the keys of device e reach another device d, exactly
two of the four tiles are visible: if e < d both blocks of d see e's early block, if e > d the late block of d sees both of e's. In its own turn a device has one whole tile and two halves. Ring implementations call
this *zigzag*. Dealing tokens in turn (*striped* attention) is nearly as good, because a token is a very small block; dealing a few large blocks in turn is not.

With several texts the costs no longer pair up. The dearest block first, each to the idlest device that has room: an old rule for scheduling, and close enough here.

**What is left out.** Balance is not all: a device must also *need* the keys that arrive. With many short texts most of what travels around the ring is never looked at.
"""

HINTS = (
    "What does block i of one text cost? Which two blocks together always cost the same?",
    "One text: blocks r and 2W - 1 - r (of each 2W) on device r. Several: sort blocks by cost, the dearest first, each to the idlest device with room.",
    "turn = b % (2W), device = min(turn, 2W - 1 - turn) for one text; for several, cost = position in its text + ½, and a loop over cost.argsort(descending=True).",
)


def cases(rng):
    rows = {
        "one text, 2 devices": ([8], 2),
        "one text, 4 devices": ([32], 4),
        "one text, 8 devices": ([32], 8),
        "two texts": ([24, 8], 4),
        "a long text and many short ones": ([16, 1, 1, 2, 3, 1, 4, 4], 4),
        "five texts": ([2, 15, 10, 5, 16], 4),
    }
    return [Case(name, {"lengths": n, "W": W}) for name, (n, W) in rows.items()]


def _work(lengths, device, W):
    """(turn, device): tiles that a device computes in a turn."""
    text = torch.cat([torch.full((n,), i) for i, n in enumerate(lengths)])
    at = torch.arange(len(text))
    tiles = (text[:, None] == text) * ((at[:, None] > at) + 0.5 * (at[:, None] == at))
    mine = torch.nn.functional.one_hot(device, W).double()
    pairs = mine.T @ tiles.double() @ mine  # (reader, owner of the keys)
    d = torch.arange(W)
    return torch.stack([pairs[d, (d - turn) % W] for turn in range(W)])


def _well_made(inputs, values):
    return all(
        isinstance(x, torch.Tensor)
        and x.dtype == torch.int64
        and x.shape == (sum(i["lengths"]),)
        and bool(((x >= 0) & (x < i["W"])).all())
        for i, x in zip(inputs, values, strict=True)
    )


def shapes(inputs, values):
    right = _well_made(inputs, values)
    return right, "as asked" if right else "not as asked"


def equal_counts(inputs, values):
    worst = 0
    for i, x in zip(inputs, values, strict=True):
        counts = torch.bincount(
            x.long().flatten().clamp(0, i["W"] - 1), minlength=i["W"]
        )
        worst = max(worst, int((counts - sum(i["lengths"]) // i["W"]).abs().max()))
    return worst == 0, f"off by up to {worst} blocks"


def _busiest(inputs, values, single):
    """The largest work over all turns, in means."""
    worst = 0.0
    for i, x in zip(inputs, values, strict=True):
        if (len(i["lengths"]) == 1) == single:
            done = _work(i["lengths"], x, i["W"]).sum(0)
            worst = max(worst, (done.max() / done.mean()).item())
    return worst, f"the busiest device has {worst:.2f} times the mean"


def one_text(inputs, values):
    worst, said = _busiest(inputs, values, True)
    return worst <= 1.25, said


def several_texts(inputs, values):
    worst, said = _busiest(inputs, values, False)
    return worst <= 1.05, said


def turns(inputs, values):
    worst = 0.0
    for i, x in zip(inputs, values, strict=True):
        if len(i["lengths"]) == 1:
            work = _work(i["lengths"], x, i["W"])
            even = work.sum() / i["W"]
            worst = max(worst, (work.amax(1).sum() / even).item())
    return worst <= 1.02, f"the turns last {worst:.2f} times as long as they could"


REQUIREMENTS = (
    Requirement(
        "a device for each block, int64",
        shapes,
        "The result is not as asked: one int64 number from 0 to W - 1 for each of the sum(lengths) blocks.",
    ),
    Requirement(
        "n / W blocks on each device",
        equal_counts,
        "The devices do not hold equally many blocks: each needs n / W, or its memory is not used.",
    ),
    Requirement(
        "one text: at most 25 % more than the mean",
        one_text,
        "With a single text one device has far more work than the mean: the last blocks see the most keys, the first ones hardly any.",
    ),
    Requirement(
        "one text: each turn is balanced",
        turns,
        "With a single text the devices wait for each other in the turns: which two blocks together always cost the same, whoever's keys arrive?",
    ),
    Requirement(
        "several texts: at most 5 % more than the mean",
        several_texts,
        "With several texts one device has too much work: a block costs one tile for each earlier block of its own text, and half a tile for itself.",
    ),
)

OUTPUTS = ("device",)


def _snake(lengths, W):
    """Sorted by cost and dealt back and forth; one text needs no sorting."""
    cost = torch.cat([torch.arange(n) for n in lengths])
    order = cost.argsort(descending=True, stable=True)
    turn = torch.arange(len(order)) % (2 * W)
    device = torch.empty_like(turn)
    device[order] = torch.minimum(turn, 2 * W - 1 - turn)
    return device


def _by_exchange(lengths, W):
    """Start from the pairs, and exchange blocks while that helps the busiest device."""
    cost = torch.cat([torch.arange(n) for n in lengths]) + 0.5
    n = len(cost)
    turn = torch.arange(n) % (2 * W)
    device = torch.minimum(turn, 2 * W - 1 - turn)
    for _ in range(10 * n):
        load = torch.zeros(W).index_add(0, device, cost)
        high, low = int(load.argmax()), int(load.argmin())
        a, b = (device == high).nonzero()[:, 0], (device == low).nonzero()[:, 0]
        gain = cost[a][:, None] - cost[b]
        gap = float(load[high] - load[low])
        better = (gain > 0) & (gain < gap)
        if gap == 0 or not better.any():
            break
        best = torch.where(better, (gain - gap / 2).abs(), torch.inf).argmin()
        i, j = a[best // len(b)], b[best % len(b)]
        device[i], device[j] = low, high
    return device


ALTERNATIVES = (_snake, _by_exchange)

MISTAKES = """
return torch.minimum(turn, 2 * W - 1 - turn) → return torch.minimum(turn, 2 * W - 1 - turn).float()
    The result is not as asked: one int64 number from 0 to W - 1 for each of the sum(lengths) blocks.
room[d] -= 1 → room[d] -= 0
    The devices do not hold equally many blocks: each needs n / W, or its memory is not used.
return torch.minimum(turn, 2 * W - 1 - turn) → return torch.arange(n) // (n // W)
    With a single text one device has far more work than the mean: the last blocks see the most keys, the first ones hardly any.
return torch.minimum(turn, 2 * W - 1 - turn) → return torch.arange(n) % W
    With a single text the devices wait for each other in the turns: which two blocks together always cost the same, whoever's keys arrive?
len(lengths) == 1 → len(lengths) >= 1
    With several texts one device has too much work: a block costs one tile for each earlier block of its own text, and half a tile for itself.
"""
