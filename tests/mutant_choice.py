"""Which planted bugs a run tries."""

import os
import shutil
import subprocess

TURNS = 8


def chosen(mutants, source):
    """Those whose description has the words in TIERCEL_MUTANTS; all, where they are "all"; otherwise an eighth, and another one
    after the next commit, so that a bug which tests no longer see is noticed soon, and a run is short."""
    words = os.environ.get("TIERCEL_MUTANTS", "")
    if words == "all":
        return mutants
    if words:
        return [mutant for mutant in mutants if words in mutant[0]]
    git = shutil.which("git") or "false"
    commits = subprocess.run([git, "-C", source, "rev-list", "--count", "HEAD"], capture_output=True, text=True, check=False).stdout
    return mutants[int(commits.strip() or 0) % TURNS::TURNS]
