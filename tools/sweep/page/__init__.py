"""report.html of a sweep: what was tried, and what came out, on one page. Imports no torch.

page    its parts in order, and when it is written      parts   tables and texts
plots   trials as dots and lines, as SVG
"""
