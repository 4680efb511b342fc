"""Tools beside training. This folder can be deleted. utils/cli.py lists the flags of train.py that use it.

check, find_lr, find_batch_size, profile, verify_resume    before a long run
explain, print_config, list_names, diff                    questions about configs
schema, config_docs, migrate, consolidate                  commands: python -m tools.NAME
sweep/    search, seeds and folds, for sweep.py
reference/    the sources of the schema and the config page     runs/    the table of runs.py
data_checks/, migration/    what check and migrate look at     prediction/, report/, export/    after training
"""
