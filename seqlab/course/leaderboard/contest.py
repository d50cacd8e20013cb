"""What a comparison is: tasks, sizes, learning rates, seeds."""

from dataclasses import dataclass
from typing import Any

from seqlab.tasks import Mixed


@dataclass(frozen=True)
class Contest:
    """One task in one or more sizes: a model trains on all of them in turn, and is asked each.

    sizes: label -> task, all with one vocabulary. what: what the labels count. shift: the model
    begins with a block of short convolution, so that a token can see the one before it. Pairs of
    two tokens need that, and not every architecture has a way of its own.
    """

    name: str
    what: str
    sizes: tuple[tuple[str, Any], ...]
    steps: int
    batch_size: int = 32
    shift: bool = False

    @property
    def task(self) -> Any:
        """What is trained on."""
        tasks = tuple(task for _, task in self.sizes)
        return tasks[0] if len(tasks) == 1 else Mixed(tasks)

    @property
    def vocab(self) -> int:
        return max(task.vocab for _, task in self.sizes)


@dataclass(frozen=True)
class Setting:
    """Which rows of the zoo meet in which contests, and what is equal for all of them.

    Each model is `depth` blocks of the row's small example (`row.make`), `d_model` wide, each block
    with a SwiGLU that is just so wide that the block has `block_parameters`. The learning rate is
    the best of `lrs` for the first seed, by the accuracy on sequences of its own; the other seeds
    are trained with that one.
    """

    name: str
    rows: tuple[str, ...]
    contests: tuple[Contest, ...]
    d_model: int = 32
    depth: int = 1
    block_parameters: int = 20_000
    lrs: tuple[float, ...] = (0.001, 0.003, 0.01)
    seeds: tuple[int, ...] = (0, 1, 2)

    def contest(self, name: str) -> Contest:
        found = [contest for contest in self.contests if contest.name == name]
        if not found:
            names = ", ".join(contest.name for contest in self.contests)
            raise ValueError(f"there is no contest {name!r}: there are {names}")
        return found[0]
