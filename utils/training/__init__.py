"""Pieces of the training loop that know no trainer. Begin with updater.py.

updater, schedule     from a loss to new weights and learning rates
non_finite_guard      keeps a loss that is not finite from becoming a step     ema       averaged weights
monitor, progress     the best epoch; where training stands                    timers    where the time goes
stop_requests         signals and time limits     compile_options    the options of torch.compile
"""
