"""A stand-in for a Hub data set: a folder with card and Parquet, read by ``datasets`` as real ones are."""

from __future__ import annotations

import random
from pathlib import Path

CARD = """---
license: cc0-1.0
language: [en, ja]
---
Rows made on the spot for the demonstration: small questions with their answers.
"""


def demo_hub(folder: Path, rows: int = 400) -> Path:
    """Make the data set in ``folder`` and return it; the same bytes each time."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = random.Random(7)
    prompts, responses, languages = [], [], []
    for number in range(rows):
        a, b = rng.randint(2, 999), rng.randint(2, 999)
        if number % 2:
            prompts.append(f"{a}個の箱に{b}個を加えると、箱は全部で何個になりますか。")
            responses.append(f"{a}に{b}を足すと{a + b}なので、全部で{a + b}個です。")
        else:
            prompts.append(f"A shelf holds {a} books and {b} more arrive. How many books are there now?")
            responses.append(f"{a} and {b} are {a + b}, so the shelf now holds {a + b} books.")
        languages.append("ja" if number % 2 else "en")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    table = pa.table({"prompt": prompts, "response": responses, "language": languages})
    pq.write_table(table, folder / "train-00000-of-00001.parquet")
    return folder
