"""Hints: a vague error gets a text that names its cause and a direction, never the solution.

Nothing here changes the result of a call that succeeded.
"""

from envtune.bfcl.results import is_error
from envtune.hints.constitution import leak, violation
from envtune.hints.corruption import KINDS, NONE, Corruption
from envtune.hints.library import (
    CATEGORIES,
    TYPES,
    Hint,
    add_folder,
    added,
    added_folders,
    augment,
    library_digest,
    load_hints,
    match,
)
