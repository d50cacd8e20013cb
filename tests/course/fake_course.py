"""A small chapter 90 for the tests of the machinery: a write, a recurrence in chunks, and a
number.
"""

import torch

from seqlab.course import exercises
from seqlab.course.exercise import Case, Exercise, Property


def randn(rng, *shape):
    return torch.randn(*shape, generator=rng)


def write(S, k, v):
    return S + v[..., :, None] * k[..., None, :]


def write_cases(rng):
    shapes = {"K ≠ V": (2, 3, 5, 4), "K = V": (1, 2, 4, 4)}
    return [
        Case(
            name, {"S": randn(rng, B, H, V, K), "k": randn(rng, B, H, K), "v": randn(rng, B, H, V)}
        )
        for name, (B, H, V, K) in shapes.items()
    ]


def running_sum(x, state=None, chunk_size=4):
    y = x.cumsum(1) if state is None else x.cumsum(1) + state[:, None]
    return y, y[:, -1]


def sum_per_chunk(x, state=None, chunk_size=4):
    y = torch.cat([c.cumsum(1) for c in x.split(chunk_size, dim=1)], 1)
    return y if state is None else y + state[:, None], x.sum(1)


def sum_cases(rng):
    return [
        Case("T = 1", {"x": randn(rng, 2, 1, 3), "state": None, "chunk_size": 4}),
        Case("odd T", {"x": randn(rng, 2, 11, 3), "state": randn(rng, 2, 3), "chunk_size": 4}),
    ]


WRITE = Exercise(
    "90.1",
    title="Write into the memory",
    objective="Add v kᵀ to the state.",
    name="write",
    points=2,
    minutes=5,
    difficulty=1,
    hints=("Which axes has S?", "S + v kᵀ.", "v[..., :, None] * k[..., None, :]"),
    reference=write,
    cases=write_cases,
    mistakes={
        "The state is transposed: k vᵀ instead of v kᵀ.": lambda S, k, v: (
            S + k[..., :, None] * v[..., None, :]
        ),
        "The write replaces the state.": lambda S, k, v: write(0 * S, k, v),
        "The write is subtracted.": lambda S, k, v: write(S, k, -v),
        "The write counts twice.": lambda S, k, v: write(S, k, 2 * v),
    },
    alternatives=(lambda S, k, v: torch.einsum("bhv,bhk->bhvk", v, k) + S,),
    outputs=("S",),
    time_axis=None,
)

SUM = Exercise(
    "90.2",
    title="A running sum in chunks",
    objective="Carry the sum from chunk to chunk.",
    name="running_sum",
    points=3,
    minutes=10,
    difficulty=2,
    hints=(
        "What must one chunk tell the next?",
        "y_t = y_{t-1} + x_t",
        "x.cumsum(1) + state[:, None]",
    ),
    reference=running_sum,
    cases=sum_cases,
    mistakes={
        "The state is ignored.": lambda x, state=None, chunk_size=4: running_sum(x),
        "The mean instead of the sum.": lambda x, state=None, chunk_size=4: (
            x.mean(1)[:, None] + 0 * x,
            x.mean(1),
        ),
        "The sum runs over the channels.": lambda x, state=None, chunk_size=4: (
            x.cumsum(2),
            x[:, -1].cumsum(1),
        ),
        "The sum runs backwards.": lambda x, state=None, chunk_size=4: (
            x.flip(1).cumsum(1).flip(1),
            x.sum(1),
        ),
    },
    alternatives=(
        lambda x, state=None, chunk_size=4: (
            running_sum(x) if state is None else running_sum(x + 0 * x, 1 * state)
        ),
    ),
    properties=(
        Property(
            "chunk size does not matter",
            lambda inputs: [inputs | {"chunk_size": 3}],
            lambda inputs, outputs: torch.allclose(outputs[0][0], outputs[1][0], atol=1e-5),
            "Another chunk size gives another answer.",
        ),
    ),
    outputs=("y", "S"),
    time_axis={"y": 1, "S": None},
    parts_hint=lambda t, inputs: (
        "is the state carried across chunks?" if t % inputs["chunk_size"] == 0 else "look at t"
    ),
)

NUMBER = Exercise(
    "90.3",
    title="The bytes of a state",
    objective="Count.",
    name="n_bytes",
    points=1,
    minutes=3,
    difficulty=1,
    hints=("How many numbers?", "K times V numbers.", "4 bytes each"),
    reference=4 * 64 * 64,
    mistakes={
        "Numbers, not bytes.": 64 * 64,
        "bfloat16.": 2 * 64 * 64,
        "Bits.": 32 * 64 * 64,
        "K + V.": 4 * 128,
    },
    alternatives=(2**14,),
)

EXERCISES = [WRITE, SUM, NUMBER]


def install(monkeypatch=None):
    """Make chapter 90 the only chapter with exercises, in this process."""
    put = setattr if monkeypatch is None else monkeypatch.setattr
    put(exercises, "chapters", lambda: ["90"])
    put(exercises, "of_chapter", of_chapter)


def of_chapter(chapter):
    if chapter != "90":
        raise ValueError(f"chapter {chapter} has no exercises: choose one of 90")
    return EXERCISES
