"""``python -m so8t_engine``: the command line, for launchers that start modules."""

from __future__ import annotations

from so8t_engine.entry import main

if __name__ == "__main__":
    main()
