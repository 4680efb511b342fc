"""Models, losses and metrics, one idea per file. Every file in this folder is imported automatically."""
