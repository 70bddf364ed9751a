"""Episodes and the environment in the forms that other tools read.

played reads a run; inspect_log and trl_completions write it for inspect_ai and TRL; trl_environment
and openenv_environment are the environment behind their interfaces.
"""
