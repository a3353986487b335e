"""The work behind the ``so8t`` commands."""
