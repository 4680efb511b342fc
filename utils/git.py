"""Runs git in this project."""
import os
import subprocess

from utils.errors import PROJECT


def git(*command: str, **environment: str) -> str | None:
    """The output of `git COMMAND` in this project; None if there is no git or no repository of its own."""
    if not (PROJECT / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", *command], cwd=PROJECT, capture_output=True, timeout=20,
                              env={**os.environ, **environment})
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode(errors="replace").strip() or None if done.returncode == 0 else None
