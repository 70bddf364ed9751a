"""Actionable augmentation: a vague error carries a hint that names its cause and a direction, never the solution."""
from envtune.bfcl.results import is_error
from envtune.hints.constitution import leak, violation
from envtune.hints.corruption import KINDS, NONE, Corruption
from envtune.hints.library import CATEGORIES, TYPES, Hint, add_folder, augment, load_hints, match


def generate(*arguments, **settings):
    """See generator.generate. Imported when first called: it needs the extra `hints` (openai, pydantic)."""
    from envtune.hints import generator
    return generator.generate(*arguments, **settings)


__all__ = ["CATEGORIES", "KINDS", "NONE", "TYPES", "Corruption", "Hint", "add_folder", "augment", "generate", "is_error", "leak",
           "load_hints", "match", "violation"]
