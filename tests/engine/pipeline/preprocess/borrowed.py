"""Personal data by other hands: values from Faker and from Google's table of telephone numbers.

``python -m tests.engine.pipeline.preprocess.borrowed --texts 20000`` prints recall by kind and origin, how
often something is taken that is none, and what is missed. Whoever wrote the recognisers had no part in the
values; the words around them are Faker's too, but for a few that name what follows.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from so8t_engine.pipeline.preprocess.personal import find

LOCALES = ("ja_JP", "en_US", "en_GB")
#: What Faker makes that no recogniser looks for, so that nobody takes them for covered.
NOT_LOOKED_FOR = ("name", "street address", "US social security number", "US ZIP code", "IBAN")


def _telephones(rng: random.Random) -> Callable[[], tuple[str, str]]:
    """Valid numbers of Japan, the United States and Great Britain, as libphonenumber writes them."""
    import phonenumbers
    from phonenumbers import PhoneNumberFormat, PhoneNumberType

    kinds = ("FIXED_LINE", "MOBILE", "TOLL_FREE", "VOIP")
    examples = [
        (region, phonenumbers.example_number_for_type(region, getattr(PhoneNumberType, kind)))
        for region in ("JP", "US", "GB")
        for kind in kinds
    ]
    examples = [(region, one) for region, one in examples if one is not None]
    forms = ("NATIONAL", "INTERNATIONAL", "E164")

    def make() -> tuple[str, str]:
        while True:
            region, example = rng.choice(examples)
            number = phonenumbers.PhoneNumber()
            number.merge_from(example)
            number.national_number = example.national_number // 10**5 * 10**5 + rng.randrange(10**5)
            if phonenumbers.is_valid_number(number):
                form = rng.choice(forms)
                style = getattr(PhoneNumberFormat, form)
                return f"PHONE {region} {form.lower()}", phonenumbers.format_number(number, style)

    return make


def values(seed: int) -> Iterator[tuple[str, str, str, Any]]:
    """(kind and origin, what must be found, what stands before it, the Faker whose words surround it)."""
    from faker import Faker

    rng = random.Random(seed)
    fakers = {name: Faker(name) for name in LOCALES}
    for fake in fakers.values():
        fake.seed_instance(seed)
    telephone = _telephones(rng)
    while True:
        name = rng.choice(LOCALES)
        fake = fakers[name]
        yield f"EMAIL faker {name}", rng.choice([fake.email, fake.company_email, fake.free_email])(), "", fake
        number = fake.phone_number()
        while name == "ja_JP" and number[0] != "0":  # Faker leaves the 0 of some Japanese numbers out
            number = fake.phone_number()
        yield f"PHONE faker {name}", number, "", fake
        kind, value = telephone()
        yield kind, value, "", fake
        card = rng.choice(
            ["visa16", "visa19", "mastercard", "amex", "diners", "discover", "jcb16", "maestro"]
        )
        word = rng.choice(["", "Card: ", "カード番号："])
        yield f"CARD faker {card}", fake.credit_card_number(card), word, fake
        yield "IP faker", rng.choice([fake.ipv4, fake.ipv6])(), "", fake
        japanese = fakers["ja_JP"]
        address = japanese.address()
        # The code of a letter: before the address, with or without the postal mark.
        mark = rng.choice(["", "〒"])
        yield "POSTAL_CODE faker", f"{mark}{japanese.postcode()}", "", (japanese, f" {address}")


def harmless(seed: int) -> Iterator[str]:
    """Numbers and signs that are nobody's data, among Faker's words."""
    from faker import Faker

    rng = random.Random(seed)
    fakers = [Faker(name) for name in LOCALES]
    for fake in fakers:
        fake.seed_instance(seed)
    while True:
        fake = rng.choice(fakers)
        make = rng.choice(
            [
                fake.isbn13,
                fake.isbn10,
                fake.ean13,
                fake.ean8,
                fake.date,
                fake.iso8601,
                fake.time,
                fake.uuid4,
                fake.sha1,
                fake.mac_address,
                fake.hex_color,
                fake.file_path,
                fake.user_agent,
                fake.license_plate,
                lambda f=fake: str(f.unix_time()),
                lambda f=fake: str(f.pyfloat()),
                lambda f=fake: str(f.latlng()),
                lambda f=fake: f.numerify("%######-###"),
                lambda f=fake: f.bothify("??-####-####").upper(),
                lambda f=fake: f.numerify("v#.##.#"),
                lambda f=fake: str(f.random_number(12)),
                lambda f=fake: str(f.random_number(16)),
            ]
        )
        yield f"{fake.sentence()} {make()} {fake.sentence()}"


def measure(texts: int, seed: int = 3) -> dict[str, Any]:
    """Recall by kind and origin, precision by kind, texts that went wrong."""
    planted: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    missed: dict[str, list[str]] = {}
    taken: list[str] = []
    source, other = values(seed), harmless(seed)
    for number in range(texts):
        if number % 3 == 2:
            text = next(other)
            for one in find(text):
                wrong[one.kind] += 1
                taken.append(f"{one.kind}: {text[one.start : one.end]} in: {text}")
            continue
        kind, value, before, fake = next(source)
        after = ""
        if isinstance(fake, tuple):
            fake, after = fake
        begin = f"{fake.sentence()} {before}"
        text = f"{begin}{value}{after} {fake.sentence()}"
        planted[kind] += 1
        # Every digit and letter of it must be covered, by whatever kind: what is left over is a leak.
        start, end = len(begin), len(begin) + len(value)
        covered = {at for one in find(text) for at in range(one.start, one.end)}
        if all(at in covered or not text[at].isalnum() for at in range(start, end)):
            hits[kind] += 1
        else:
            missed.setdefault(kind, []).append(value)
    kinds: Counter[str] = Counter()
    found: Counter[str] = Counter()
    for name, count in planted.items():
        kinds[name.split()[0]] += count
        found[name.split()[0]] += hits[name]
    total = sum(hits.values())
    return {
        "texts": texts,
        "recall": {kind: round(found[kind] / count, 4) for kind, count in sorted(kinds.items())},
        "recall_by_origin": {kind: round(hits[kind] / count, 4) for kind, count in sorted(planted.items())},
        "recall_all": round(total / sum(planted.values()), 4),
        "precision": round(total / (total + sum(wrong.values())), 4),
        "false": dict(wrong),
        "missed": {kind: sorted(set(some))[:12] for kind, some in sorted(missed.items())},
        "taken_wrongly": taken[:20],
        "not_looked_for": NOT_LOOKED_FOR,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    print(json.dumps(measure(options.texts, options.seed), indent=1, ensure_ascii=False))  # noqa: T201


if __name__ == "__main__":
    main()
