"""report.html: a run on one page, which needs no other file, no network and no scripts.

writer    when it is written, as the writer `Report`     kept     what the writer keeps for it in report.json
page      the parts of the page, and its size            points   the curves in metrics.jsonl
charts    curves as SVG                                  markup   HTML and its style
"""
