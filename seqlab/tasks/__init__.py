"""Synthetic tasks: batches of (tokens, targets) that need one ability, and nothing else.

All are seeded dataclasses with one look: `task.batch(batch_size, generator)` has tokens and targets
(B, T), IGNORE where nothing is asked, and sometimes facts about each question; `task.vocab` counts
the tokens, `task.word(token)` says one, `task.chance` is what guessing gets right. Three are not
like that: a story's tokens are sentences, LinearRegression and ChangingRule have vectors for tokens
and numbers for targets, and Clusters has points without an order.
"""

from seqlab.tasks.base import IGNORE, Batch, Mixed, Task
from seqlab.tasks.changing_rule import ChangingRule, Pairs
from seqlab.tasks.clusters import ClusterBatch, Clusters
from seqlab.tasks.copying import Copy, DelayedCopy, SelectiveCopy
from seqlab.tasks.fuzzy import FuzzyRecall
from seqlab.tasks.largest import Largest
from seqlab.tasks.marked import Marked
from seqlab.tasks.mqar import MQAR, Induction, MQARBatch
from seqlab.tasks.names import Names, NamesBatch
from seqlab.tasks.needle import Needle, NeedleBatch
from seqlab.tasks.parity import ModularCount, Parity
from seqlab.tasks.permutations import Permutations
from seqlab.tasks.recall import Recall, RecallBatch
from seqlab.tasks.regression import LinearRegression, RegressionBatch
from seqlab.tasks.stories import Stories, StoryBatch
from seqlab.tasks.text import Text, ngram_bits, python_help
from seqlab.tasks.two_ranges import RangesBatch, TwoRanges

__all__ = [
    "IGNORE",
    "MQAR",
    "Batch",
    "ChangingRule",
    "ClusterBatch",
    "Clusters",
    "Copy",
    "DelayedCopy",
    "FuzzyRecall",
    "Induction",
    "Largest",
    "LinearRegression",
    "MQARBatch",
    "Marked",
    "Mixed",
    "ModularCount",
    "Names",
    "NamesBatch",
    "Needle",
    "NeedleBatch",
    "Pairs",
    "Parity",
    "Permutations",
    "RangesBatch",
    "Recall",
    "RecallBatch",
    "RegressionBatch",
    "SelectiveCopy",
    "Stories",
    "StoryBatch",
    "Task",
    "Text",
    "TwoRanges",
    "ngram_bits",
    "python_help",
]
