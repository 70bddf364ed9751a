"""What every layer may use: paths, statistics, progress, the files of a run.

Nothing here knows BFCL, an episode or torch.
"""
