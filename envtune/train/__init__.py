"""How a policy is trained and evaluated: stages and presets as data, GRPO and SFT by TRL, runs.

Nothing here implements an optimiser.
"""
