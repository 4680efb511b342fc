"""All runs in a table: `python runs.py`. Imports no torch.

reading        a run's files
run_state      whether a run trains at present, or how its last start ended
columns        what a table shows of runs, by column; conditions and order
groups         runs that are equal but for one key, such as seed
tables         a table as text, CSV, JSON or HTML
one_run        all of one run, and the commands that reproduce it; a few runs side by side
"""
