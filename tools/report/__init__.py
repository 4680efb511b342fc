"""Reports: what test.py finds beside the means, per class or as residuals, and a run on one page.

report   collects outputs and targets while a split is scored
pictures   confusion matrix, mistakes, residuals
page/      report.html of a run, its writer `Report`; `python -m tools.report RUN` makes it anew
"""
