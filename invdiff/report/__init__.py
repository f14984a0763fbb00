"""Report of results: one HTML page with everything in it, for a browser without a network.

The page is made by :func:`invdiff.report.page.make_report`; what is in a folder is found by
:func:`invdiff.report.contents.find`, and what is shown of one item by :func:`invdiff.report.item.describe`.
"""

__all__: list[str] = []
