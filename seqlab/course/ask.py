"""What the grader runs in the learner's kernel: set limits, call one function, save its outcomes.

`save` and `load` are bound before the learner's first cell runs.
"""

import sys
from pathlib import Path
from typing import Any

from torch import load, save

from seqlab.course.answer import Came, Outcome, answers, load_meter, number


def prepare(memory_gb: float) -> None:
    """Bound the kernel's memory, and make exit() an exception like any other."""
    _names().update(exit=sys.exit, quit=sys.exit)
    load_meter()  # before memory is bounded
    try:
        import resource

        # torch maps gigabytes that it never touches: the limit counts from what is mapped now.
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + int(memory_gb * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ImportError, OSError, ValueError):
        pass  # no such limit on this system: the time limits remain


def ask(name: str, inputs_file: str, answers_file: str, numeric: bool, seconds: float) -> None:
    """Call the learner's `name` on every input set of the file; save the outcomes as plain data."""
    names = _names()
    if name not in names:
        outcomes = [Outcome(Came.MISSING)]
    elif numeric:
        outcomes = [number(names[name])]
    elif names[name] is ...:
        outcomes = [Outcome(Came.STUB)]
    else:
        # The file is the grader's own, and may hold functions, which only the full loader reads.
        inputs = load(inputs_file, weights_only=False)
        outcomes = answers(names[name], inputs, seconds)
    save([outcome.as_dict() for outcome in outcomes], answers_file)


def _names() -> dict[str, Any]:
    """What the notebook has defined."""
    from IPython import get_ipython

    shell: Any = get_ipython()
    return shell.user_ns
