"""What the config names, checked against signatures before anything is built; begin with validate.py.

validate, validate_dataset, validate_data_loader    every fault at once
key_hints, locate_error    messages that help       complete_config    writes defaults into a run's config
data_values    `${data:NAME}`, values of the train dataset
"""
