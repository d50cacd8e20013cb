"""How reports are shown in a notebook: by `seqlab.widgets` and `seqlab.figures`, imported late.

So this package needs no notebook and imports nothing above it. Without plotly or IPython, a report
is shown as text.
"""

from importlib import import_module
from typing import Any

PLOTLY = "application/vnd.plotly.v1+json"


def shown(module: str, function: str, found: Any) -> Any:
    """seqlab.<module>.<function>(found), or None if that module cannot be imported."""
    try:
        return getattr(import_module(f"seqlab.{module}"), function)(found)
    except ImportError:
        return None
