"""Failures of the pipeline."""

from __future__ import annotations

from so8t_engine.errors import SO8TError


class PipelineError(SO8TError):
    """The pipeline or one of its steps cannot go on."""

    kind = "pipeline"


class TransientError(PipelineError):
    """A failure that may pass: the graph tries the step again, later and later."""


class PipelineStopped(Exception):  # noqa: N818  (an order obeyed, not an error)
    """Somebody asked the pipeline to stop; what the step has written stays for the next call."""
