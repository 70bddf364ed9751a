"""The embedded agent: a small language model that learnt BFCL's tools, with habits to unlearn.

How it is made (tokens, script, data, train, build) and measured (measure). Other models use only
its script, for the warm-up of their format (train/sft.py).
"""

from envtune.common import paths

FOLDERS = {
    "tiny-agent": paths.DATA / "tiny_agent",
    "tiny-agent-deaf": paths.DATA / "tiny_agent_deaf",
}
"""Committed weights, tokenizer and model card, and made.json: how it was made and measured. The
deaf one differs in one habit: it makes no use of hints."""
FOLDER = FOLDERS["tiny-agent"]
MESSAGE_TOKENS, EPISODE_TOKENS = 64, 900
"""Longest message, and longest episode after its opening, in training and measuring [tokens]."""
