"""One batch through everything before a run begins; begin with preflight.py.

preflight   shapes, labels, gradients, monitor
loss   does the loss fit                          geometry   transforms of images alone
"""
