"""Project: cut a batch of caches for a device

*Share keys among programs so that none waits. · 35 minutes · ●●● · 4 points*

A server decodes for many texts at once, and their caches differ in length. Exercise 24.7 cut one cache into equal parts. Cut a whole batch: there are `workers` multiprocessors, and text n has tiles[n] ≥ 1 tiles of keys. Each worker reads one tile in one unit of time, and it takes several parts one after another. Merging is not free,
so there should be few parts.

`plan(tiles, workers)` returns the parts as a tensor (parts, 4) of int64 with a row (worker, text, begin, end) for each: this worker reads the tiles begin … end - 1 of this text. `tiles` is a list. It must be so that

- each tile of each text is read exactly once, by workers 0 … workers - 1;
- the busiest worker reads at most ⌈total / workers⌉ tiles;
- there are at most texts + workers - 1 parts;
- if all texts have the same length and there are as many as workers (or twice as many), no text is cut;
- no worker has two parts of the same text.
"""

from itertools import pairwise

import torch

from seqlab.course.exercise import Case, Requirement


def plan(tiles, workers):
    """The parts: (parts, 4) of int64, a row (worker, text, begin, end) for each."""
    ### BEGIN SOLUTION
    room = -(-sum(tiles) // workers)
    parts, worker, left = [], 0, room
    for text, length in enumerate(tiles):
        begin = 0
        while begin < length:
            if left == 0:
                worker, left = worker + 1, room
            end = min(length, begin + left)
            parts.append((worker, text, begin, end))
            left -= end - begin
            begin = end
    return torch.tensor(parts)
    ### END SOLUTION


WHY = """
**Solution.** Lay the texts end to end on a line and cut it every ⌈total / workers⌉ tiles. A cut that falls inside a text makes one more part, and there are at most workers - 1 cuts. That is the whole algorithm, and its bound.

**Why not ask for fewest parts?** To know whether texts can be shared out *without* any cut and without idle workers is bin packing, which nobody solves quickly in general. The line is within workers - 1 parts of it.

**In use.** Libraries for serving make such a table on the CPU before each step, and one launch of as many programs as there are multiprocessors reads its rows. The merge kernel needs to know which rows belong to a text. What a plan cannot know is
that some multiprocessors are slower, because others use the same memory at the time.
"""

HINTS = (
    "If nobody may read more than ⌈total / workers⌉ tiles, where on the line of all tiles can a worker begin?",
    "Lay the texts end to end. Worker w has the tiles from w · room to (w + 1) · room of that line. Cut it also where a text ends.",
    "room = -(-sum(tiles) // workers); for each text: while tiles are left, take min(what is left of the text, what is left of the worker); when the worker is full, go to the next one.",
)


def cases(rng):
    batches = {
        "one long text": ([64], 8),
        "equal texts": ([12] * 8, 8),
        "twice as many": ([5] * 8, 4),
        "mixed": ([40, 3, 17, 1, 9, 28, 5], 6),
        "many short texts": ([1, 2, 3] * 7, 5),
        "few tiles": ([2, 1], 8),
    }
    return [Case(n, {"tiles": t, "workers": w}) for n, (t, w) in batches.items()]


def shapes(inputs, values):
    def good(i, x):
        if not isinstance(x, torch.Tensor) or x.dtype != torch.int64:
            return False
        if x.ndim != 2 or x.shape[1] != 4 or not len(x) or bool((x < 0).any()):
            return False
        texts, workers = x[:, 1], x[:, 0]
        if bool((texts >= len(i["tiles"])).any() | (workers >= i["workers"]).any()):
            return False
        lengths = torch.tensor(i["tiles"])[texts]
        return bool(((x[:, 2] < x[:, 3]) & (x[:, 3] <= lengths)).all())

    right = all(good(i, x) for i, x in zip(inputs, values, strict=True))
    return right, "as asked" if right else "not as asked"


def each_once(inputs, values):
    wrong = 0
    for i, x in zip(inputs, values, strict=True):
        read = [[0] * n for n in i["tiles"]]
        for _, text, begin, end in x.tolist():
            for tile in range(begin, end):
                read[text][tile] += 1
        wrong += sum(count != 1 for row in read for count in row)
    return wrong == 0, f"{wrong} tiles are not read exactly once"


def balanced(inputs, values):
    worst = 0
    for i, x in zip(inputs, values, strict=True):
        load = torch.zeros(i["workers"], dtype=torch.int64)
        load.index_add_(0, x[:, 0], x[:, 3] - x[:, 2])
        worst = max(worst, int(load.max()) - -(-sum(i["tiles"]) // i["workers"]))
    return worst <= 0, f"{max(worst, 0)} tiles above the mean at the busiest worker"


def few(inputs, values):
    over = max(
        len(x) - (len(i["tiles"]) + i["workers"] - 1)
        for i, x in zip(inputs, values, strict=True)
    )
    return over <= 0, f"{max(over, 0)} parts too many"


def uncut(inputs, values):
    cut = 0
    for i, x in zip(inputs, values, strict=True):
        if len(set(i["tiles"])) == 1 and len(i["tiles"]) % i["workers"] == 0:
            cut += len(x) - len(i["tiles"])
    return cut <= 0, f"{cut} cuts in batches that need none"


def once_each(inputs, values):
    twice = 0
    for x in values:
        pairs = [tuple(row[:2]) for row in x.tolist()]
        twice += len(pairs) - len(set(pairs))
    return twice == 0, f"{twice} parts that their neighbour could hold"


REQUIREMENTS = (
    Requirement(
        "a tensor (parts, 4) of int64, inside the batch",
        shapes,
        "The plan must be a tensor (parts, 4) of int64 with rows (worker, text, begin, end), begin < end, inside the batch.",
    ),
    Requirement(
        "each tile exactly once",
        each_once,
        "Some tile is left out, or is read twice.",
    ),
    Requirement(
        "no worker twice at one text",
        once_each,
        "A worker has two parts of the same text: join them, or each needs a merge.",
    ),
    Requirement(
        "texts that fit are not cut",
        uncut,
        "Equal texts that fill the workers evenly are cut, though none needs to be.",
    ),
    Requirement(
        "nobody waits",
        balanced,
        "The busiest worker reads more than ⌈total / workers⌉ tiles: the others wait for it.",
    ),
    Requirement(
        "at most texts + workers - 1 parts",
        few,
        "There are more parts than texts + workers - 1: cut only where a worker is full.",
    ),
)


def by_positions(tiles, workers):
    """The cuts of all texts and of all workers on one line, sorted."""
    total, starts = sum(tiles), [0]
    for n in tiles:
        starts.append(starts[-1] + n)
    room = -(-total // workers)
    marks = sorted({*starts, *range(0, total, room)})
    rows = []
    for a, b in pairwise(marks):
        text = max(n for n in range(len(tiles)) if starts[n] <= a)
        rows.append([a // room, text, a - starts[text], b - starts[text]])
    return torch.tensor(rows)


ALTERNATIVES = (by_positions,)

MISTAKES = """
return torch.tensor(parts) → return torch.tensor(parts).float()
    The plan must be a tensor (parts, 4) of int64 with rows (worker, text, begin, end), begin < end, inside the batch.
return torch.tensor(parts) → return torch.tensor(parts[:-1] or parts)
    Some tile is left out, or is read twice.
room = -(-sum(tiles) // workers) → room = max(max(tiles), -(-sum(tiles) // workers))
    The busiest worker reads more than ⌈total / workers⌉ tiles: the others wait for it.
end = min(length, begin + left) → end = begin + 1
    A worker has two parts of the same text: join them, or each needs a merge.
* → parts, m = [], workers⏎for text, n in enumerate(tiles):⏎    s = -(-n // m)⏎    parts += [(p, text, p * s, min(n, p * s + s)) for p in range(m) if p * s < n]⏎return torch.tensor(parts)
    Equal texts that fill the workers evenly are cut, though none needs to be.
* → parts, turn, n = [], 0, len(tiles)⏎if len(set(tiles)) == 1 and n % workers == 0:⏎    return torch.tensor([(t % workers, t, 0, tiles[t]) for t in range(n)])⏎for text, length in enumerate(tiles):⏎    begin = 0⏎    for w in range(workers):⏎        end = begin + length // workers + ((w - turn) % workers < length % workers)⏎        parts += [(w, text, begin, end)] if end > begin else []⏎        begin = end⏎    turn += length % workers⏎return torch.tensor(parts)
    There are more parts than texts + workers - 1: cut only where a worker is full.
"""
