"""What preprocessing does to rows and which rows it leaves out."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from so8t_engine.config.fields import setting
from so8t_engine.i18n import N_, _
from so8t_engine.pipeline.step import StepSettings


class PreprocessSettings(StepSettings):
    """Normalisation, languages, quality, personal data, duplicates, labels, splits."""

    normalisation: Literal["nfc", "nfkc"] = setting(
        "nfc",
        N_("Unicode form"),
        N_("nfkc also unifies full-width and half-width signs, and flattens ² and ① into 2 and 1."),
    )
    languages: list[str] = setting(
        ["en", "ja"], N_("Languages kept"), N_("Codes; rows in other languages are left out and counted.")
    )
    min_chars: int = setting(
        4, N_("Shortest text"), N_("Of prompt and response together."), unit=N_("characters"), ge=1
    )
    max_chars: int = setting(
        20_000,
        N_("Longest row"),
        N_("Longer prompts with response are left out."),
        unit=N_("characters"),
        ge=100,
    )
    chunk_chars: int = setting(
        4_000,
        N_("Piece of a text"),
        N_("Plain texts that are longer are cut at paragraphs; the pieces stay in one split."),
        unit=N_("characters"),
        ge=100,
    )
    personal_data: Literal["mask", "drop", "keep"] = setting(
        "mask",
        N_("Personal data"),
        N_("mask writes [EMAIL], [PHONE] … in its place; drop leaves the row out."),
    )
    presidio: bool = setting(
        False,
        N_("Presidio too"),
        N_(
            "Also asks Presidio's recognisers in English texts: names of people, numbers of documents and "
            "accounts. Needs the extra 'presidio' and a language model of spaCy."
        ),
        advanced=True,
    )
    presidio_model: str = setting(
        "en_core_web_lg",
        N_("Presidio's language model"),
        N_("An installed package of spaCy, or the folder of one; nothing is downloaded."),
        advanced=True,
    )
    near_duplicates: float = setting(
        0.8,
        N_("Near-duplicates from"),
        N_("Jaccard similarity of character 5-grams from which the later of two rows is left out."),
        ge=0.6,
        le=1.0,
    )
    nsfw: Literal["detection_only", "drop"] = setting(
        "detection_only",
        N_("NSFW text"),
        N_(
            "detection_only keeps it in prompts that are to be denied or refused, and never in what the "
            "model learns to write."
        ),
    )
    weak_labels: bool = setting(
        True,
        N_("Weak labels"),
        N_("Rules propose a class for rows without one; such labels are marked as weak everywhere."),
    )
    weak_confidence: float = setting(
        0.7,
        N_("Weak labels from"),
        N_("Weak labels below this confidence are only shown in the review and not trained."),
        ge=0.0,
        le=1.0,
    )
    review_rows: int = setting(
        2_000, N_("Rows to review"), N_("At most so many rows, doubtful ones first."), ge=0, le=100_000
    )
    validation_fraction: float = setting(
        0.1, N_("Validation part"), N_("Of the rows; alike rows stay in one split."), ge=0.0, le=0.4
    )
    test_fraction: float = setting(
        0.1, N_("Test part"), N_("Of the rows; alike rows stay in one split."), ge=0.0, le=0.4
    )

    @model_validator(mode="after")
    def _usable(self) -> PreprocessSettings:
        if not self.languages:
            raise ValueError(_("at least one language must be kept"))
        return self
