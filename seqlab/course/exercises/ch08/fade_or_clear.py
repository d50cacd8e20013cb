"""Fade or clear?

*Open question · 5 minutes*

A layer with the delta rule can clear any key at once, so why did every large model of 2025 give it a decay as well? And a layer with a decay forgets anyway, so why clear? Write three or four sentences: what can each of the two do that the other cannot, and where in a text is each needed?
"""

POINTS = (
    "Clearing needs the key: what is stored under a key that never comes back can only be removed by fading.",
    "Fading hits every pair alike (or every key channel): it cannot replace one value and leave the others as they are.",
    "A change of topic, or a new document, calls for fading; a new value for the same variable or name calls for clearing.",
    "Without fading, the leftovers of many pairs crowd a table of K columns, and old keys return wrong values in place of nothing (section 5).",
    "The order matters: the table fades first, then what the key returns from the faded table is removed, so a write with β = 1 still comes back whole.",
)
