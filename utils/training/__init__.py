"""Parts of the training loop that do not depend on a trainer. Start with updater.py.

updater, schedule     from a loss to new weights and learning rates
non_finite_guard      skips steps whose loss is not finite             ema       averaged weights
monitor, progress     the best epoch; the position of training         timers    where the time is spent
stop_requests         signals and time limits     compile_options    the options of torch.compile
"""
