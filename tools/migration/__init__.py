"""What `python -m tools.migrate` knows of pytorch-template.

old_config   a config of a fork, and what was read of it      fork_names   names that forks use for ours
"""
