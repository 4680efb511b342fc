"""What test.py reports beside the means: per class or as residuals, with pictures.

report   collects outputs and targets while a split is scored
pictures   confusion matrix, mistakes, residuals
"""
