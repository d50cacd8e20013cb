"""Claims of a chapter that are tried where they are made."""

from collections.abc import Callable


def holds(claim: Callable[[], object]) -> None:
    """Run a claim as soon as it is defined, and say that it holds.

    The name of the function is the claim, its body the assertions that would fail without it:

        @holds
        def the_state_is_a_sum():
            torch.testing.assert_close(state, sum_of_writes)

    prints "holds: the state is a sum". An assertion that fails is raised.
    """
    claim()
    print("holds:", claim.__name__.replace("_", " "))
