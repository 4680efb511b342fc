"""Models, losses and metrics, one idea a file; every file here is found by itself."""
