"""One batch through everything before a run begins; begin with preflight.py.

preflight   shapes, labels, gradients, monitor    loss   does the loss fit
trial_step   the first step of each optimizer     attributes   plain attributes, put back afterwards
locate_error   which part of an experiment caused an error
"""
