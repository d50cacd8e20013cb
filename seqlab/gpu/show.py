"""In a notebook, what the lab found is shown by `seqlab.widgets` and `seqlab.figures`: looked up
only then.

So this package needs no notebook, and imports nothing above it; where plotly or IPython is missing,
text is shown.
"""

from importlib import import_module
from typing import Any


def shown(module: str, function: str, found: Any) -> Any:
    """seqlab.<module>.<function>(found), or None where that cannot be."""
    try:
        return getattr(import_module(f"seqlab.{module}"), function)(found)
    except ImportError:
        return None
