"""Summaries of run directories, for the window."""

from __future__ import annotations

from so8t_engine.history.summary import RunSummary, scan, summarise

__all__ = ["RunSummary", "scan", "summarise"]
