"""Experts: named values of `z`, their files, and the rules by which they may be used."""

from t2local.experts.expert import Expert, HeldOut
from t2local.experts.library import Deleted, Library
from t2local.experts.store import ExpertStore, read_expert, write_expert

__all__ = [
    "Deleted",
    "Expert",
    "ExpertStore",
    "HeldOut",
    "Library",
    "read_expert",
    "write_expert",
]
