"""What the grader runs inside the learner's kernel: set limits, call one function, save what came
back.

Bound names (`save`, `load`) are taken before the learner's first cell runs.
"""

import sys
from pathlib import Path

from torch import load, save, zeros

from seqlab.course.answer import Outcome, answers, number


def prepare(memory_gb: float) -> None:
    """Bound the kernel's memory, and make exit() an exception like any other."""
    from IPython import get_ipython

    get_ipython().user_ns.update(exit=sys.exit, quit=sys.exit)
    # At the first watched call torch imports its compiler, some seconds: now, and not on the
    # learner's clock.
    answers(lambda x: x + 1, [{"x": zeros(1)}], 60.0)
    try:
        import resource

        # torch alone maps gigabytes that it never touches: the limit counts from where it stands
        # now.
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + int(memory_gb * 2**30)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    except (ImportError, OSError, ValueError):
        pass  # no such limit on this system: the time limits remain


def ask(name: str, inputs_file: str, answers_file: str, numeric: bool, seconds: float) -> None:
    """Call the learner's `name` on every input set of the file, and save the outcomes as plain
    data.
    """
    from IPython import get_ipython

    names = get_ipython().user_ns
    if name not in names:
        outcomes = [Outcome("missing")]
    elif numeric:
        outcomes = [number(names[name])]
    elif names[name] is ...:
        outcomes = [Outcome("stub")]
    else:
        # The file is the grader's own; it may hold plain functions, which only the full loader
        # reads.
        inputs = load(inputs_file, weights_only=False)
        outcomes = answers(names[name], inputs, seconds)
    save([outcome.as_dict() for outcome in outcomes], answers_file)
