"""Synthetic tasks: batches of (tokens, targets) that need one ability, and nothing else."""

from seqlab.tasks.base import IGNORE, Batch, Task
from seqlab.tasks.clusters import ClusterBatch, Clusters
from seqlab.tasks.copying import Copy, DelayedCopy, SelectiveCopy
from seqlab.tasks.names import Names, NamesBatch
from seqlab.tasks.parity import Parity
from seqlab.tasks.recall import Recall, RecallBatch
from seqlab.tasks.stories import Stories, StoryBatch
from seqlab.tasks.text import Text, ngram_bits, python_help

__all__ = [
    "IGNORE",
    "Batch",
    "ClusterBatch",
    "Clusters",
    "Copy",
    "DelayedCopy",
    "Names",
    "NamesBatch",
    "Parity",
    "Recall",
    "RecallBatch",
    "SelectiveCopy",
    "Stories",
    "StoryBatch",
    "Task",
    "Text",
    "ngram_bits",
    "python_help",
]
