"""The pipeline's steps, one a file; `so8t_engine.pipeline.registry` names them in order."""
