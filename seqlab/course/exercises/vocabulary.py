"""Mistakes that many exercises share: what goes wrong with an input or an output, whoever computes it.

Each function here gives a Word: the sentence to say, and the wrong answer made from the right one.
An exercise lists those that apply to it in ALSO; `says=` puts a sentence of its own in place of the
common one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch

from seqlab.course.exercise import Effort

Answer = Callable[..., Any]


@dataclass(frozen=True)
class Word:
    """A sentence, and how the right answer becomes the wrong one that deserves it."""

    sentence: str
    wrong: Callable[[Answer], Answer]


def _word(change: Callable[[Answer, dict], Any], sentence: str) -> Word:
    """change(solution, inputs) -> what a learner with this mistake returns."""

    def wrong(solution):
        @wraps(solution)
        def answer(**inputs):
            return change(solution, inputs)

        return answer

    return Word(sentence, wrong)


def _with_output(value, i, change):
    """`value` with its output number i changed; a single output is number 0."""
    if not isinstance(value, tuple):
        return change(value)
    return tuple(change(v) if j == i else v for j, v in enumerate(value))


def output(i: int, change: Callable, says: str) -> Word:
    """Output number i, changed."""
    return _word(lambda f, inputs: _with_output(f(**inputs), i, change), says)


def input_(name: str, change: Callable, says: str) -> Word:
    """The right computation on a changed input."""
    return _word(lambda f, inputs: f(**{**inputs, name: change(inputs[name])}), says)


# Outputs


def swapped(
    says: str = "The outputs have changed places: return them in the order of the text.",
) -> Word:
    """(S, y) in place of (y, S)."""
    return _word(lambda f, inputs: f(**inputs)[::-1], says)


def old_state(state: str = "S", i: int = 1, says: str = "") -> Word:
    """The state that was given is returned."""
    says = says or (
        f"The {state} that you return is the one you were given: return the new {state}, after the write."
    )
    return _word(lambda f, inputs: _replaced(f(**inputs), i, inputs[state]), says)


def _replaced(value, i, new):
    return tuple(new if j == i else v for j, v in enumerate(value))


def transposed(name: str, i: int = 0, says: str = "") -> Word:
    """The last two axes of an output are swapped."""
    says = says or f"Your {name} is transposed: its last two axes have changed places."
    return output(i, lambda x: x.mT, says)


def late(name: str = "y", i: int = 0, axis: int = 1, says: str = "") -> Word:
    """Each output stands one token too late."""
    says = says or (
        f"Each {name} comes one token too late: what you return at token t belongs to token t - 1."
    )
    return output(i, lambda x: _moved(x, 1, axis), says)


def early(name: str = "y", i: int = 0, axis: int = 1, says: str = "") -> Word:
    """Each output stands one token too early."""
    says = says or (
        f"Each {name} comes one token too early: what you return at token t belongs to token t + 1."
    )
    return output(i, lambda x: _moved(x, -1, axis), says)


def _moved(x, by, axis):
    moved = x.roll(by, axis)
    moved.select(axis, 0 if by > 0 else -1).zero_()
    return moved


def reversed_in_time(
    name: str = "y", i: int = 0, axis: int = 1, says: str = ""
) -> Word:
    """The outputs run from the last token to the first."""
    says = says or f"Your {name} runs backwards in time: its last token comes first."
    return output(i, lambda x: x.flip(axis), says)


# Inputs


def state_ignored(state: str = "state", says: str = "") -> Word:
    """An empty state in place of the given one."""
    says = says or f"The given {state} is ignored: the answer starts from an empty one."
    return input_(state, lambda S: None if S is None else torch.zeros_like(S), says)


def first_head(name: str = "gamma", axis: int = 0, says: str = "") -> Word:
    """All heads use what belongs to the first."""
    says = (
        says
        or f"All heads use the {name} of the first: look at how the axis of the heads lines up."
    )
    return input_(name, lambda x: x.narrow(axis, 0, 1).expand_as(x), says)


def first_sequence(name: str, says: str = "") -> Word:
    """All sequences of the batch use what belongs to the first."""
    says = (
        says
        or f"All sequences use the {name} of the first: look at the axis of the batch."
    )
    return input_(name, lambda x: x[:1].expand_as(x), says)


def heads_mixed(name: str, axis: int, says: str = "") -> Word:
    """The heads of one input are in another order than those of the others."""
    says = (
        says
        or f"The heads of {name} are mixed up: head h meets the {name} of another head."
    )
    return input_(name, lambda x: x.roll(1, axis), says)


def decay_left_out(name: str = "gamma", says: str = "") -> Word:
    """A decay of 1."""
    says = says or f"The decay is left out: nothing is forgotten. Look for {name}."
    return input_(name, torch.ones_like, says)


def decay_squared(name: str = "gamma", says: str = "") -> Word:
    """The decay twice."""
    says = says or f"The decay is applied twice: look for a second product with {name}."
    return input_(name, torch.square, says)


def decay_as_its_log(name: str = "gamma", says: str = "") -> Word:
    """exp of what is already the factor."""
    says = (
        says
        or f"{name} is used as if it were a logarithm: it is the factor itself. Look for an exp."
    )
    return input_(name, torch.exp, says)


def log_as_the_decay(name: str = "log_a", says: str = "") -> Word:
    """The logarithm where the factor belongs."""
    says = (
        says
        or f"{name} is used as the factor itself: it is a logarithm, so exp is missing."
    )
    return input_(name, lambda log_a: log_a.clamp(min=1e-30).log(), says)


def one_minus(name: str = "gamma", says: str = "") -> Word:
    """What is kept and what is forgotten have changed places."""
    says = (
        says
        or f"1 - {name} is kept and {name} is forgotten: it should be the other way round."
    )
    return input_(name, lambda x: 1 - x, says)


def scaled(name: str = "q", power: float = -0.5, says: str = "") -> Word:
    """An input times K^power, its own width K."""
    says = says or (
        f"{name} is scaled by K^{'-½' if power < 0 else '½'}: the text asks for no scale here."
    )
    return input_(name, lambda x: x * x.shape[-1] ** power, says)


def unit_length(name: str, says: str = "") -> Word:
    """An input scaled to length 1."""
    says = (
        says
        or f"{name} is scaled to length 1: the text asks for no scale, so use it as it is."
    )
    return input_(name, lambda x: torch.nn.functional.normalize(x, dim=-1), says)


def softmaxed(name: str, axis: int = -1, says: str = "") -> Word:
    """A softmax over an input where none belongs."""
    says = says or f"A softmax is taken over {name}: none belongs here."
    return input_(name, lambda x: x.softmax(axis), says)


def pairs_at_once(inputs: dict, effort: Effort) -> str | None:
    """The `effort` of a parallel form: no loop over tokens, and scores of all T × T pairs."""
    T = inputs["q"].shape[1]
    if T < 64:
        return None
    if effort.calls >= T:
        walks = f"{effort.calls:,} torch operations for {T} tokens"
        return (
            f"The values are right, but this walks token by token: {walks}. Compute all pairs at once: scores (T, T), "
            "a mask, times v."
        )
    if effort.largest < T * T:
        return (
            f"The values are right, but no tensor of T × T scores was made: the largest had {effort.largest:,} numbers. "
            "This stacks states, or works in pieces. Compute all pairs at once: scores (T, T), a mask, times v."
        )
    return None
