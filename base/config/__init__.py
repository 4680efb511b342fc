"""What the config names, checked against signatures before anything is built; begin with validate.py.

validate, validate_dataset, validate_data_loader, validate_init    every fault at once
key_hints    other programs' names for keys         complete_config    writes defaults into a run's config
"""
