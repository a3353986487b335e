"""The console's entry: ``so8t estimate`` answers before the rest of the command line has been imported.

Its options are few, and typer alone takes longer to import than the estimate to make. Whatever is not plainly
``estimate CONFIG [--set a.b=v …] [--json]`` goes to `so8t_engine.cli`, which knows the same command.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from types import ModuleType

from so8t_engine import streams


def _plain_estimate(arguments: list[str]) -> tuple[Path, list[str], bool] | None:
    """CONFIG, overrides and whether JSON is wanted; None for anything else, help and mistakes included."""
    if not arguments or arguments[0] != "estimate":
        return None
    config: Path | None = None
    overrides: list[str] = []
    as_json = False
    rest = iter(arguments[1:])
    for word in rest:
        if word == "--json":
            as_json = True
        elif word == "--set":
            value = next(rest, None)
            if value is None:
                return None
            overrides.append(value)
        elif word.startswith("--set="):
            overrides.append(word.removeprefix("--set="))
        elif word.startswith("-") or config is not None:
            return None
        else:
            config = Path(word)
    return None if config is None else (config, overrides, as_json)


def _without_plugins() -> None:
    """Spare pydantic its search for plugins, which imports importlib.metadata and email."""
    none = ModuleType("pydantic.plugin._loader")
    none.__dict__["get_plugins"] = tuple
    sys.modules.setdefault(none.__name__, none)


def main() -> None:
    """Console entry point."""
    streams.prepare()
    wanted = _plain_estimate(sys.argv[1:])
    if wanted is not None:
        # A process that lives for a quarter of a second: a fifth of it went into collecting garbage, looking
        # for pydantic plugins in every installed package, and taking the interpreter apart.
        gc.disable()
        os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
        _without_plugins()
        from so8t_engine import i18n
        from so8t_engine.commands.budget import estimate_report
        from so8t_engine.errors import SO8TError

        i18n.set_language(i18n.system_language())
        config, overrides, as_json = wanted
        try:
            text, result = estimate_report(config, overrides)
        except SO8TError:
            pass  # told by the command line proper, in its own manner
        else:
            if as_json:
                import json

                text = json.dumps(result, ensure_ascii=not streams.is_utf8(sys.stdout)) + "\n"
            sys.stdout.write(text)
            sys.stdout.flush()
            os._exit(0)
        gc.enable()
    try:
        from so8t_engine.cli import main as whole

        whole()
    except KeyboardInterrupt:  # while the command line was being imported: nothing has begun
        sys.exit(130)


if __name__ == "__main__":
    main()
