"""A Japanese and English set with planted personal data and numbers that only look like it.

``python -m tests.engine.pipeline.preprocess.planted --texts 20000`` prints recall and precision per kind and
lists what is missed and what is taken wrongly.
"""

# ruff: noqa: E501  (tables)
from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from typing import Any

from so8t_engine.pipeline.preprocess.personal import find, luhn, my_number

_WIDE = str.maketrans("0123456789-()@.+", "０１２３４５６７８９－（）＠．＋")


def _digits(rng: random.Random, count: int) -> str:
    return "".join(rng.choice("0123456789") for _i in range(count))


def _email(rng: random.Random) -> str:
    name = rng.choice(["taro.yamada", "h_suzuki", "info", "a.b+news", "Jane-Doe99", "k", "sato123"])
    host = rng.choice(
        ["example.com", "mail.example.co.jp", "sub.example-site.org", "example.ne.jp", "x.example.io"]
    )
    return f"{name}@{host}"


def _phone_jp(rng: random.Random) -> str:
    d = lambda n: _digits(rng, n)  # noqa: E731
    return rng.choice([
        f"03-{rng.randint(3, 6)}{d(3)}-{d(4)}", f"06-6{d(3)}-{d(4)}", f"045-{d(3)}-{d(4)}", f"0774-{d(2)}-{d(4)}",
        f"090-{d(4)}-{d(4)}", f"080-{d(4)}-{d(4)}", f"070{d(8)}", f"0120-{d(3)}-{d(3)}", f"(03){d(4)}-{d(4)}",
        f"03({d(4)}){d(4)}", f"090 {d(4)} {d(4)}", f"050-{d(4)}-{d(4)}",
    ])  # fmt: skip


def _phone_world(rng: random.Random) -> str:
    d = lambda n: _digits(rng, n)  # noqa: E731
    return rng.choice([
        f"+81-3-{d(4)}-{d(4)}", f"+81 90 {d(4)} {d(4)}", f"+1 (415) 5{d(2)}-{d(4)}", f"+44 20 7{d(3)} {d(4)}",
        f"+49 30 {d(7)}", f"(212) 5{d(2)}-{d(4)}", f"415-5{d(2)}-{d(4)}", f"+33 1 {d(2)} {d(2)} {d(2)} {d(2)}",
    ])  # fmt: skip


def _my_number(rng: random.Random) -> str:
    while True:
        digits = _digits(rng, 12)
        if my_number(digits):
            return rng.choice(
                [
                    digits,
                    f"{digits[:4]}-{digits[4:8]}-{digits[8:]}",
                    f"{digits[:4]} {digits[4:8]} {digits[8:]}",
                ]
            )


def _card(rng: random.Random) -> str:
    prefix, size = rng.choice(
        [("4", 16), ("51", 16), ("37", 15), (f"35{rng.randint(28, 89)}", 16), ("6011", 16)]
    )
    body = prefix + _digits(rng, size - len(prefix) - 1)
    digits = next(body + str(check) for check in range(10) if luhn(body + str(check)))
    if size == 15:
        return rng.choice([digits, f"{digits[:4]} {digits[4:10]} {digits[10:]}"])
    groups = [digits[i : i + 4] for i in range(0, 16, 4)]
    return rng.choice([digits, " ".join(groups), "-".join(groups)])


def _postal(rng: random.Random) -> str:
    return rng.choice(
        [
            f"〒{_digits(rng, 3)}-{_digits(rng, 4)}",
            f"〒 {_digits(rng, 3)}-{_digits(rng, 4)}",
            f"〒{_digits(rng, 7)}",
        ]
    )


def _postal_named(rng: random.Random) -> str:
    return f"{_digits(rng, 3)}-{_digits(rng, 4)}"


POSITIVE = {
    "EMAIL": (_email, ["Write to {} soon.", "{} までご連絡ください。", "連絡先：{}", "mail: {}, thanks", "<{}>", "「{}」です"]),
    "PHONE": (_phone_jp, ["電話は{}です。", "TEL {} まで", "Call {} today.", "携帯:{}", "番号（{}）に", "ご用は{}へ"]),
    "PHONE ": (_phone_world, ["Call {} after six.", "phone {}", "国際電話は {} です", "reach me at {}."]),
    "MY_NUMBER": (_my_number, ["マイナンバーは{}です。", "個人番号 {}", "My Number: {}.", "番号は「{}」"]),
    "CARD": (_card, ["Card {} expires soon.", "カード番号は{}です。", "クレジットカード：{}", "pay with {} now"]),
    "POSTAL_CODE": (_postal, ["住所は{} 東京都港区です。", "{} 大阪市北区", "宛先：{}"]),
    "POSTAL_CODE ": (_postal_named, ["郵便番号は{}です。", "住所：{} 京都府", "postal code {}, Japan"]),
}  # fmt: skip


def _negatives(rng: random.Random) -> str:
    d = lambda n: _digits(rng, n)  # noqa: E731
    while my_number(twelve := "9" + d(11)):
        pass
    while luhn(sixteen := "4" + d(15)):
        pass
    return rng.choice([
        f"注文番号は{twelve}です。", f"Order {sixteen} has shipped.", f"The price is {rng.randint(1, 99)},{d(3)} yen.",
        f"2026-{rng.randint(1, 12):02d}-{rng.randint(1, 28):02d} に開催します。", f"Version 3.{rng.randint(0, 99)}.{rng.randint(0, 99)}",
        f"ISBN 978-4-{d(2)}-{d(6)}-{rng.randint(0, 9)}", f"{rng.randint(1000, 9999)}-{rng.randint(1000, 9999)} hPa",
        f"式は {rng.randint(100, 999)}-{rng.randint(1, 99)} = ? です。", f"pi is 3.14159265{d(4)}", f"@{rng.choice(['home', 'work'])} 10:30",
        f"人口は{rng.randint(1, 99)}万{rng.randint(1000, 9999)}人です。", f"Room {rng.randint(100, 999)}, floor {rng.randint(1, 40)}",
        f"part no. {d(3)}-{d(4)} is out of stock", f"{rng.randint(1, 12)}:{rng.randint(10, 59)}-{rng.randint(1, 12)}:{rng.randint(10, 59)}",
        f"型番は{d(3)}-{d(4)}です。", f"sha {d(40)}", f"得点は{rng.randint(0, 99)}対{rng.randint(0, 99)}。", f"UTC+9 で {d(4)} 回",
    ])  # fmt: skip


def measure(texts: int, seed: int = 3) -> dict[str, Any]:
    """Recall per kind, precision, and the texts that went wrong."""
    rng = random.Random(seed)
    hits: Counter[str] = Counter()
    planted: Counter[str] = Counter()
    false: Counter[str] = Counter()
    missed: list[str] = []
    wrong: list[str] = []
    for number in range(texts):
        if number % 3 == 2:
            text, truth, kind = _negatives(rng), "", ""
        else:
            key = rng.choice(list(POSITIVE))
            make, frames = POSITIVE[key]
            kind = key.strip()
            truth = make(rng)
            if kind != "EMAIL" and rng.random() < 0.25:
                truth = truth.translate(_WIDE)
            text = rng.choice(frames).format(truth)
        found = find(text)
        if kind:
            planted[kind] += 1
            good = any(
                one.kind == kind and truth.strip("〒 ") in text[one.start : one.end] + truth[:1]
                for one in found
            )
            covered = any(
                text[one.start : one.end].strip("〒 ") == truth.strip("〒 ") and one.kind == kind
                for one in found
            )
            if good and covered:
                hits[kind] += 1
            else:
                missed.append(f"{kind}: {text} -> {[(f.kind, text[f.start : f.end]) for f in found]}")
            extra = [
                one
                for one in found
                if text[one.start : one.end].strip("〒 ") != truth.strip("〒 ") or one.kind != kind
            ]
        else:
            extra = found
        for one in extra:
            false[one.kind] += 1
            wrong.append(f"{one.kind}: {text}")
    total = sum(hits.values())
    return {
        "texts": texts,
        "planted": dict(planted),
        "recall": {kind: round(hits[kind] / count, 4) for kind, count in sorted(planted.items())},
        "recall_all": round(total / sum(planted.values()), 4),
        "precision": round(total / (total + sum(false.values())), 4),
        "false": dict(false),
        "missed": missed,
        "wrong": wrong,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, default=20_000)
    found = measure(parser.parse_args().texts)
    found["missed"], found["wrong"] = found["missed"][:40], found["wrong"][:40]
    print(json.dumps(found, indent=1, ensure_ascii=False))  # noqa: T201


if __name__ == "__main__":
    main()
