"""Out of distribution: BFCL V4's agentic tasks, tau2-bench and ACEBench Agent, by their own code.

    >>> rows = ood.run({"stage 4": "runs/x/stage4_alignment/policy"}, ["BFCL V4"], options, folder)
    >>> ood.table(rows)

Each harness is the original in an environment of its own (`make ood-bfcl`, `make ood-tau2`,
`make ood-acebench`), asks a server with OpenAI's API, and keeps its own files under the run folder.
docs/ood.md says what each needs.
"""

from envtune.study.ood.running import HARNESSES, run, unplayed
from envtune.study.ood.setting import NOT_RUN, Checkpoint, Endpoint, Options
from envtune.study.ood.table import figure, not_run, published, scores, table
