"""safetensors whose bytes depend on nothing but what is written."""

from __future__ import annotations

import json
from collections.abc import Mapping

from safetensors.torch import save
from torch import Tensor


def serialise(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The file's bytes, the metadata sorted by name.

    The library writes it in the order of a hash table, which changes from call to call, so that equal
    contents had unequal digests.
    """
    data = save(dict(tensors), dict(metadata))
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + data[8 + size :]
