"""A GGUF file, written again with other metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf

TYPES = {
    bool: gguf.GGUFValueType.BOOL,
    int: gguf.GGUFValueType.UINT32,
    float: gguf.GGUFValueType.FLOAT32,
    str: gguf.GGUFValueType.STRING,
}


def rewrite(file: Path, target: Path, changes: dict[str, Any]) -> Path:
    """Write `file` again with other metadata: key -> value; None: without the key."""
    reader = gguf.GGUFReader(file)
    fields = {name: field for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    architecture = changes.get("general.architecture", fields["general.architecture"].contents())
    writer = gguf.GGUFWriter(target, architecture or "")  # "" writes none
    for name in [name for name in fields | changes if name != "general.architecture"]:
        value = changes[name] if name in changes else fields[name].contents()
        if value is not None:
            kind = fields[name].types[0] if name in fields else TYPES[type(value)]
            writer.add_key_value(name, value, kind)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target
