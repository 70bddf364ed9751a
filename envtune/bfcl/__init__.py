"""The tasks (BFCL's and synthetic ones), their tools, results, splits and verdicts.

Only this layer imports bfcl_eval. None of its code is copied, and nothing is run by `eval`.
"""

from envtune.bfcl.checker import (
    brief,
    missing_results,
    official_check,
    official_valid,
    state_difference,
)
from envtune.bfcl.lookup import OWN_TASKS, load_task
from envtune.bfcl.tasks import (
    CLASSES,
    DATA_SHA256,
    NEW_TOOLS_MESSAGE,
    OWN_CLASSES,
    PACKAGE_VERSION,
    SPLITS,
    BFCLUnavailable,
    Call,
    Task,
    docs_of,
    load_tasks,
    long_context_constants,
    new_instance,
    parse_call,
    tool_class,
    tool_docs,
    tool_names,
)
