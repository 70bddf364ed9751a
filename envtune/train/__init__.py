"""How a policy is trained and evaluated: stages and presets as data, GRPO and SFT by TRL, when a stage ends, run folders that resume, what
it costs. Nothing here is an optimiser of its own."""
