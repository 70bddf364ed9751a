"""How a policy is trained and evaluated: stages and presets as data, GRPO and SFT by TRL, runs.

Nothing here is an optimiser of its own.
"""
