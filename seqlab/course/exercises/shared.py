"""What the exercises of several chapters ask in the same words."""

from seqlab.course.exercise import Effort

LONG = 1024  # tokens of the case that tells a loop over chunks from a loop over tokens and from all pairs


def chunks_are_asked(inputs: dict, effort: Effort) -> str | None:
    """Told by the long case alone: how often torch was called, and how large a matrix of pairs was built."""
    (B, T, H, _), C = inputs["q"].shape, inputs["chunk_size"]
    if T < LONG:
        return None
    if effort.calls >= T:
        return (
            f"The values are right, but yours walks token by token, or over chunks of a few: {effort.calls:,} torch "
            f"operations for {T} tokens in chunks of {C}. Let the loop go over chunks of chunk_size tokens."
        )
    if effort.largest >= B * H * T * T:
        return (
            f"The values are right, but yours builds all {T} x {T} pairs: cut the text into chunks of chunk_size "
            "tokens, and let the state stand for everything before a chunk."
        )
    if effort.largest < C * C:
        return (
            f"The values are right, but no chunk of {C} tokens is computed by its {C} x {C} pairs: is chunk_size used, "
            "and not a number of your own?"
        )
    return None
