"""The report of one simulated run: a page that needs nothing but itself.

`page.write_report` writes it; `excerpt` bounds what of a trace it holds; the page's own parts (`page.html`, `page.css` and
the scripts: `data.js` knows the run, `arrows.js` and `draw.js` draw it, `panels.js` has what stands beside the drawing, and
`page.js` hears the person) lie beside them and are copied into each page. Not responsible for running anything.
"""

from holloway.simulations.report.excerpt import Extent
from holloway.simulations.report.page import write_report

__all__ = ["Extent", "write_report"]
