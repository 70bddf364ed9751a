"""What must hold before anything is installed. Run by the Makefile with the system's Python: standard library only.

$ python3 envtune/preflight.py      # silent when all is well, else one sentence and exit code 1
"""

import shutil
import sys

SUPPORTED = ((3, 11), (3, 12))
FREE_GB = 5


def problem(version, free_bytes) -> str:
    """One sentence on what stops an install, or ''. `version` is (major, minor), `free_bytes` the disk space here."""
    if tuple(version[:2]) not in SUPPORTED:
        return (
            "Python 3.11 or 3.12 is needed, this is %d.%d; install one and run make with PYTHON=python3.12."
            % (version[0], version[1])
        )
    if free_bytes < FREE_GB * 10**9:
        return "%d GB of free disk are needed here, %.1f GB are free; make room and run again." % (
            FREE_GB,
            free_bytes / 1e9,
        )
    return ""


if __name__ == "__main__":
    message = problem(sys.version_info, shutil.disk_usage(".").free)
    if message:
        sys.exit("envtune: " + message)
