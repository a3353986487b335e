"""Figures of the window itself: ``so8t bench ui``. Run by hand; no test is timed."""
