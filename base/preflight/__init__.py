"""One batch through everything before a run begins; begin with preflight.py.

preflight   shapes, labels, gradients, monitor          trial_step   a step of each optimizer, undone
attributes   what models keep, to be put back
loss   does the loss fit                          geometry   transforms of images alone
"""
