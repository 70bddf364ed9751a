"""Actionable augmentation: a vague error carries a hint that names its cause and a direction, never the solution."""
from envtune.hints.library import CATEGORIES, TYPES, Hint, augment, is_error, leak, load_hints, match

__all__ = ["CATEGORIES", "TYPES", "Hint", "augment", "is_error", "leak", "load_hints", "match"]
