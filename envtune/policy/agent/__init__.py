"""The embedded agent: a small language model that learnt BFCL's tools, with habits to unlearn.

How it is made (tokens, script, data, train, build) and measured (measure). Other models use only
its script, for the warm-up of their format (train/sft.py).
"""

from envtune.common import paths

FOLDERS = {
    "tiny-agent": paths.DATA / "tiny_agent",
    "study-agent": paths.DATA / "study_agent",
    "study-agent-deaf": paths.DATA / "study_agent_deaf",
}
"""Committed weights, tokenizer and model card, and made.json: how each was made and measured. Those
of the study differ in a habit each: the first asks more often, the deaf one ignores hints."""
FOLDER = FOLDERS["tiny-agent"]
MESSAGE_TOKENS, EPISODE_TOKENS = 64, 900
"""Longest message, and longest episode after its opening, in training and measuring [tokens]."""
