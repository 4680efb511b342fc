"""Runs a script and kills it, by SIGKILL, before its n-th action on a file.

    python kill_at.py N LOG SCRIPT ARGS

Actions are the openings for writing, links, renames and removals that Python's audit events tell of, below the folder of LOG.
All of them are written to LOG, before they happen; with N = 0 the script runs to its end.
"""
import os
import runpy
import signal
import sys

number, log, sys.argv = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
folder, done, main = os.path.dirname(log), 0, os.getpid()
lines = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)


def look(event: str, args: tuple) -> None:
    global done
    writes = event in ("os.rename", "os.link", "os.remove", "os.mkdir", "os.truncate")
    if event == "open" and args[2] is not None and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        writes = True
    if not writes or not str(args[0]).startswith(folder) or os.getpid() != main:
        return
    done += 1
    os.write(lines, f"{event} {args[0]}\n".encode())
    if done == number:
        os.kill(main, signal.SIGKILL)


sys.addaudithook(look)
sys.path.insert(0, os.getcwd())
runpy.run_path(sys.argv[0], run_name="__main__")
