"""A small set of item sequences in the form of S3-Rec's files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

ITEMS = 300

# User 7 comes first and has items 1, 2, ..., 6; user 3 has three; user 9 has two.
SEQUENCES = "7 1 2 3 4 5 6\n3 6 5 4\n9 8 9\n" + "".join(
    f"{100 + i} {i} {i + 1} {i + 2}\n" for i in range(10, ITEMS - 1)
)
ATTRIBUTES_OF = {"1": [5, 9, 9], "2": [], "3": list(range(1, 40)), "5": [4]}


def sample_lines(text: str) -> str:
    """99 negatives of every user: the items from 120 on that are not the user's."""
    lines = []
    for row in text.splitlines():
        user, *had = row.split()
        lines.append(" ".join([user, *[str(i) for i in range(120, ITEMS) if str(i) not in had][:99]]))
    return "\n".join(lines) + "\n"


def write_sequences(
    folder: Path,
    sequences: str | None = SEQUENCES,
    attributes: str | None = None,
    sample: str | None = None,
    *,
    gz: bool = True,
) -> Path:
    """Write them as LastFM below a folder of data, which is returned; a text of None is left out."""
    place = folder / "s3rec_sequences"
    place.mkdir(parents=True, exist_ok=True)
    listed = json.dumps(ATTRIBUTES_OF) if attributes is None else attributes
    texts = {"LastFM.txt": sequences, "LastFM_item2attributes.json": listed, "LastFM_sample.txt": sample}
    for name, text in texts.items():
        if text is not None:
            data = gzip.compress(text.encode()) if gz else text.encode()
            (place / (f"{name}.gz" if gz else name)).write_bytes(data)
    return folder
