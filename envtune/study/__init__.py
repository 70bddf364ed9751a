"""What is learnt from runs: notebooks as functions, sweeps, figures, the paper's tables and claims.
Nothing here trains."""
