"""/think: a trained run answers over HTTP or in a terminal, fail-closed, with an audit log."""
