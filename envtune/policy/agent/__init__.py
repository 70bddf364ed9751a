"""The embedded agent: a small language model that learnt to use BFCL's tools on synthetic tasks, and has habits to unlearn.

How it is made (tokens, script, data, train, build) and measured (measure). Nothing here is needed to train another model.
"""

from envtune.common import paths

FOLDER = paths.DATA / "tiny_agent"
"""Its committed weights, tokenizer, model card, and made.json with the numbers of how it was made."""
MESSAGE_TOKENS, EPISODE_TOKENS = 64, 900
"""How long a message and an episode after its opening may be where the agent is measured and trained (preset cpu-tiny) [tokens]."""
