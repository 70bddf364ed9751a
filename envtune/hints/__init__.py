"""Actionable augmentation: a vague error carries a hint that names its cause and a direction, never the solution."""
from envtune.hints.constitution import leak, violation
from envtune.hints.corruption import KINDS, NONE, Corruption
from envtune.hints.library import CATEGORIES, TYPES, Hint, augment, is_error, load_hints, match

__all__ = ["CATEGORIES", "KINDS", "NONE", "TYPES", "Corruption", "Hint", "augment", "is_error", "leak", "load_hints", "match",
           "violation"]
