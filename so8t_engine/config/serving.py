"""Settings of what comes after training: /think, its decisions and its audit log, and samples during it."""

from __future__ import annotations

from typing import Literal

from so8t_engine.config.fields import Section, setting
from so8t_engine.i18n import N_


class SampleConfig(Section):
    """Texts that the model writes while it is trained. They change nothing about the training."""

    every: int | None = setting(
        None,
        N_("Write samples every"),
        N_("Steps between samples, and once at the end. Empty writes none."),
        unit=N_("steps"),
        ge=1,
    )
    prompts: list[str] = setting(
        [],
        N_("Prompts"),
        N_("What the model is asked each time. Empty takes the first four held-out rows."),
        max_length=32,
    )
    tokens: int = setting(
        48, N_("Length"), N_("Longest sample; always the likeliest token."), unit=N_("tokens"), ge=1, le=1024
    )


class ServingConfig(Section):
    """How `so8t serve` decides, what it limits and what its audit log keeps."""

    allow_threshold: float = setting(
        0.7,
        N_("ALLOW from"),
        N_("An ALLOW with less confidence becomes an ESCALATION."),
        ge=0.0,
        le=1.0,
    )
    danger_threshold: float = setting(
        0.5,
        N_("Danger from"),
        N_("An ALLOW becomes an ESCALATION where the safety head sees at least this much danger."),
        ge=0.0,
        le=1.0,
    )
    thinking_tokens: int | None = setting(
        None,
        N_("Thinking"),
        N_(
            "Tokens of each of the four thinking segments at most. Empty takes 96 for a run whose rows had "
            "think tags, and 0 for one that never saw any: it then answers without thinking."
        ),
        unit=N_("tokens"),
        ge=0,
        le=4096,
    )
    constrained: bool = setting(
        True,
        N_("Hold to the tags"),
        N_("Tokens that would leave the tag grammar are not taken. When off, a slip is a refusal."),
        advanced=True,
    )
    quote_bytes: int = setting(
        40,
        N_("Quotation from"),
        N_(
            "An answer that shares a run of so many bytes of letters with the thinking, and not with the "
            "question, is refused. 0 allows quotations."
        ),
        unit=N_("bytes"),
        advanced=True,
        ge=0,
        le=1000,
    )
    max_new_tokens: int = setting(
        512,
        N_("Longest answer"),
        N_("What a caller may ask for at most."),
        unit=N_("tokens"),
        ge=1,
        le=8192,
    )
    batch: int | None = setting(
        None,
        N_("Answers at once"),
        N_(
            "Requests that the model answers together. Empty takes 8, and up to 64 of a model so small "
            "that the caches of all stay under 256 MiB."
        ),
        ge=1,
        le=256,
    )
    queue: int = setting(
        256,
        N_("Waiting requests"),
        N_("More are turned away with 503 and the time after which to come again."),
        ge=1,
        le=100_000,
    )
    requests_per_minute: int = setting(
        600, N_("Requests a minute"), N_("Of one caller. More are answered 429."), ge=1, le=1_000_000
    )
    request_kib: int = setting(
        128, N_("Largest request"), N_("A larger body is answered 413."), unit="KiB", ge=1, le=65536
    )
    timeout_s: float = setting(
        300.0,
        N_("Time limit"),
        N_("From arrival to the end of the answer, waiting included; then 504."),
        unit="s",
        gt=0.0,
        le=86400.0,
    )
    audit_days: int | None = setting(
        None,
        N_("Keep the audit log"),
        N_("Days; older rows are removed when the service starts. Empty keeps everything."),
        unit=N_("days"),
        ge=1,
    )
    audit_key: Literal["auto", "keyring", "file"] = setting(
        "auto",
        N_("Audit key"),
        N_(
            "keyring: the system's. file: one that only you can read, outside the run. auto: the keyring "
            "where one works, else the file."
        ),
        advanced=True,
    )
