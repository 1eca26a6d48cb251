"""How a measurement was made: the command, the code it ran and the machine that ran it.

Every result that is kept says so, and can be made again.
"""

import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

from t2local.paths import PROJECT_ROOT

GIT_TIMEOUT_S = 10
UNKNOWN = "unknown"


def origin(device: str) -> dict[str, str]:
    """What any kept result says of itself; `device` is the model's: `cpu`, `cuda:0`."""
    return {
        "command": shlex.join(["python", "-m", "t2local", *sys.argv[1:]]),
        "commit": commit(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {device}",
    }


def commit(folder: Path = PROJECT_ROOT) -> str:
    """The commit of the checkout at `folder`, `-dirty` behind it where files were changed.

    `unknown` outside a checkout and without git.
    """
    if not (folder / ".git").exists():  # a copy inside somebody else's repository is not theirs
        return UNKNOWN
    command = ["git", "describe", "--always", "--dirty", "--exclude=*", "--abbrev=12"]
    try:
        ended = subprocess.run(
            command,
            cwd=folder,
            capture_output=True,
            encoding="utf-8",
            timeout=GIT_TIMEOUT_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return UNKNOWN
    return ended.stdout.strip()
