"""Reading a configuration: from YAML with line numbers, from a mapping, with overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from so8t_engine.config.config import SCHEMA_VERSION, Config
from so8t_engine.config.fields import Section
from so8t_engine.config.messages import FieldProblem, problems
from so8t_engine.config.secrets import secrets_in
from so8t_engine.config.yaml_loader import FastLoader, PlainLoader, value_of
from so8t_engine.errors import ConfigError
from so8t_engine.i18n import _
from so8t_engine.paths import configs_dir
from so8t_engine.safe_paths import is_there

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
Model = TypeVar("Model", bound=Section)


def preset_paths() -> dict[str, Path]:
    """Name and file of each preset that comes with the program."""
    return {path.stem: path for path in _shipped() if not path.stem.startswith("pipeline")}


def pipeline_paths() -> dict[str, Path]:
    """Name and file of each pipeline configuration that comes with the program."""
    return {path.stem: path for path in _shipped() if path.stem.startswith("pipeline")}


def _shipped() -> list[Path]:
    return sorted(configs_dir().glob("*.yaml"))


def validate_config(values: Mapping[str, Any]) -> Config | list[FieldProblem]:
    """A `Config`, or what is wrong with each field. Never raises on bad values."""
    return validate_section(Config, values)


def validate_section(model: type[Model], values: Mapping[str, Any]) -> Model | list[FieldProblem]:
    """A ``model``, or what is wrong with each field. Never raises on bad values."""
    if secrets := secrets_in(values):
        return secrets
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        return problems(error, model)


def _line_of(node: yaml.Node | None, path: Sequence[str]) -> int | None:
    """The line (from 1) of the key at ``path``, or of the deepest part of it that exists."""
    line = None
    for part in path:
        if isinstance(node, yaml.MappingNode):
            pairs = {key.value: (key, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)}
            if part not in pairs:
                break
            key, node = pairs[part]
            line = key.start_mark.line + 1
        elif isinstance(node, yaml.SequenceNode) and part.isdigit() and int(part) < len(node.value):
            node = node.value[int(part)]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _duplicate_key(node: yaml.Node, seen_from: str = "") -> tuple[str, int] | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    names: set[str] = set()
    for key, value in node.value:
        if isinstance(key, yaml.ScalarNode):
            if key.value in names:
                return seen_from + key.value, key.start_mark.line + 1
            names.add(key.value)
            inner = _duplicate_key(value, f"{seen_from}{key.value}.")
            if inner:
                return inner
    return None


def _refuse_traps(
    text: str, name: str, loader: type[yaml.SafeLoader | yaml.CSafeLoader] = yaml.SafeLoader
) -> None:
    """A few lines of aliases unfold into gigabytes, and thousands of brackets take PyYAML minutes; settings
    have no use for either."""
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        mark = event.start_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        if isinstance(event, yaml.AliasEvent):
            raise ConfigError(
                _("%(where)s uses an alias (*%(name)s).") % {"where": where, "name": event.anchor},
                _("Write the value itself."),
            )
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise ConfigError(
                _("%(where)s is nested too deeply to hold settings.") % {"where": where},
                _("Mend that line, or start from a preset."),
            )


def _read(text: str, name: str) -> tuple[yaml.Node | None, Any]:
    """Nodes with their lines, and values. Raises `ConfigError` at a trap, or what PyYAML raises."""

    def read(loader: type[yaml.SafeLoader | yaml.CSafeLoader]) -> tuple[yaml.Node | None, Any]:
        _refuse_traps(text, name, loader)
        return yaml.compose(text, Loader=loader), value_of(text, loader)

    try:
        return read(FastLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return read(PlainLoader)  # which says better what is wrong


def _override_value(raw: str) -> Any:  # noqa: ANN401
    """What stands behind the = of an override: YAML, but a text stands for itself to its end."""
    try:
        _refuse_traps(raw, "--set")
        value = value_of(raw)
    except (yaml.YAMLError, ValueError, RecursionError):
        return raw
    plain = raw.strip()
    empty = value is None and plain.lower() not in {"", "~", "null"}
    # YAML would take what follows " #" for a comment, and "&x " or "!x " for marks: paths may hold them.
    return plain if (isinstance(value, str) and plain[:1] not in {'"', "'", "|", ">"}) or empty else value


def _apply_overrides(values: dict[str, Any], overrides: Sequence[str]) -> None:
    for text in overrides:
        name, equals, raw = text.partition("=")
        if not equals or not name.strip():
            raise ConfigError(
                _("--set %(text)s is not of the form name=value.") % {"text": text},
                _("Write for example --set training.batch_size=2."),
            )
        value = _override_value(raw)
        *parents, last = name.strip().split(".")
        current = values
        for parent in parents:
            inner = current.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise ConfigError(
                    _("%(field)s is not a group of settings.") % {"field": parent}, field=parent
                )
            current = inner
        current[last] = value


def parse_config(text: str, *, name: str = "", overrides: Sequence[str] = ()) -> Config:
    """A `Config` from YAML text.

    Args:
        text: YAML; an empty text gives the defaults.
        name: file name for the error's sentence.
        overrides: ``a.b=value`` texts, as from ``--set``.

    Raises:
        ConfigError: naming file, line and field, with the mend.
    """
    return parse_section(Config, text, name=name, overrides=overrides)


def parse_section(model: type[Model], text: str, *, name: str = "", overrides: Sequence[str] = ()) -> Model:
    """A ``model`` from YAML text; see `parse_config`."""
    try:
        node, values = _read(text, name)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}" if mark else name
        reason = getattr(error, "problem", None) or getattr(error, "reason", None) or type(error).__name__
        raise ConfigError(
            _("%(where)s is not valid YAML: %(reason)s.") % {"where": where, "reason": reason},
            _("Mend that line, or start from a preset."),
        ) from error
    values = {} if values is None else values
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise ConfigError(
            _("%(where)s does not hold settings.") % {"where": name or "YAML"},
            _("Write keys and values, for example 'training:' and below it '  batch_size: 1'."),
        )
    if node is not None and (twice := _duplicate_key(node)):
        raise ConfigError(
            _("%(where)s: %(field)s stands twice.") % {"where": f"{name}:{twice[1]}", "field": twice[0]},
            _("Remove one of them."),
            field=twice[0],
        )
    version = values.get("schema_version", SCHEMA_VERSION)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ConfigError(
            _("%(where)s was written by a newer version of the program (schema %(version)s).")
            % {"where": name, "version": version},
            _("Update the program, or start from a preset."),
            field="schema_version",
        )
    _apply_overrides(values, overrides)
    result = validate_section(model, values)
    if not isinstance(result, list):
        return result
    first = result[0]
    line = _line_of(node, first.path.split("."))
    set_names = [text.split("=")[0].strip() for text in overrides]
    overridden = any(
        f"{one}.".startswith(f"{first.path}.") or f"{first.path}.".startswith(f"{one}.") for one in set_names
    )
    where = "--set" if overridden or not name else f"{name}:{line}" if line else name
    more = "" if len(result) == 1 else " " + _("(%(count)d more problems)") % {"count": len(result) - 1}
    raise ConfigError(f"{where}: {first.sentence}", first.mend + more, field=first.path)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """A `Config` from a YAML file or the name of a preset.

    Raises:
        ConfigError: the file is missing, unreadable or wrong; names file, line and field.
    """
    return load_section(Config, path, overrides)


def load_section(model: type[Model], path: str | Path, overrides: Sequence[str] = ()) -> Model:
    """A ``model`` from a YAML file or the name of a shipped one; see `load_config`."""
    file = Path(path)
    shipped = preset_paths() if model is Config else pipeline_paths()
    if not is_there(file):
        preset = shipped.get(file.stem)
        if preset is None or (file.suffix not in {"", ".yaml"}):
            raise ConfigError(
                _("There is no configuration file %(path)s.") % {"path": str(path)},
                _("Presets: %(names)s.") % {"names": ", ".join(shipped)},
            )
        file = preset
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ConfigError(
                _("%(path)s is larger than a configuration can be.") % {"path": str(path)},
                _("Is it the right file?"),
            )
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            _("%(path)s is not UTF-8 text (byte %(byte)d).") % {"path": str(path), "byte": error.start},
            _("Save it as UTF-8."),
        ) from error
    except OSError as error:
        raise ConfigError(
            _("%(path)s cannot be read: %(reason)s.") % {"path": str(path), "reason": error.strerror},
            _("Check the path and its permissions."),
        ) from error
    return parse_section(model, text, name=str(path), overrides=overrides)
