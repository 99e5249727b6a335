"""The packed file: one safetensors file of tensors, codes of weights at their true width, and what describes them.

Its metadata has one entry, "stillbit": the manifest as JSON, with the "sha256" of the rest of it and of all stored tensors. Tensors are
stored under their names, with three exceptions. Codes are bytes of packing.py (`manifest["packed"]`: bits, signed, shape). What zlib
halves is stored so (`manifest["compressed"]`: dtype, shape). What equals another tensor is not stored: the document says which. The
document is a tensor too, "stillbit.document": JSON through zlib. Equal contents make equal files.
"""

import hashlib
import json
import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from stillbit.errors import ExportError
from stillbit.files import write_whole
from stillbit.numerics.packing import pack, unpack

FORMAT = 1
_MANIFEST, _HASH, _DOCUMENT = "stillbit", "sha256", "stillbit.document"  # one entry of metadata: safetensors gives several no order
_WORTH_COMPRESSING = 1024  # bytes; below, the manifest's line about it takes what it saves
# What reading values of another kind than expected raises; an ExportError is a ValueError.
_MISREAD = (KeyError, TypeError, AttributeError, ValueError, OverflowError, RuntimeError, zlib.error)
_LARGEST_DOCUMENT = 1 << 28  # bytes; a program of a thousand layers takes a hundredth of it


@dataclass(frozen=True)
class Content:
    """What a packed file holds.

    Attributes:
        manifest: Describes the file; JSON's types.
        document: Likewise, for machines only: the program.
        tensors: By name.
    """

    manifest: dict[str, Any]
    document: dict[str, Any]
    tensors: dict[str, Tensor]


def write_content(path: Path, content: Content, widths: Mapping[str, int], check: Callable[[Path], None] | None = None) -> None:
    """Write a packed file, whole or not at all."""
    assert _DOCUMENT not in content.tensors
    packer = _Packer(widths)
    for name, tensor in content.tensors.items():
        packer.add(name, tensor)
    document = _json({"same": packer.same, **content.document}, "the program").encode()
    packer.stored[_DOCUMENT] = _tensor_of(zlib.compress(document, 9))
    tables = {"packed": packer.packed, "compressed": packer.compressed}
    manifest = {"format": FORMAT, **content.manifest, **tables}
    signed = _json({_HASH: _hash(manifest, packer.stored), **manifest}, "the manifest")
    write_whole(path, save(packer.stored, {_MANIFEST: signed}), check)


def read_content(path: Path) -> Content:
    """Read a packed file. Nothing in it is executed."""
    metadata, stored = _read(path)
    if _MANIFEST not in metadata:
        raise ExportError(f"{path}: not a packed file of stillbit (its metadata has no entry {_MANIFEST!r})")
    manifest = _manifest(path, metadata[_MANIFEST])
    if manifest.pop(_HASH, None) != _hash(manifest, stored):
        raise ExportError(f"{path}: damaged or changed (its sha256 is another than it says)")
    try:
        document = json.loads(_inflated(stored.pop(_DOCUMENT), _LARGEST_DOCUMENT))
        tensors = {name: _restored(name, tensor, manifest) for name, tensor in stored.items()}
        tensors |= {str(name): tensors[source] for name, source in document.pop("same").items()}
    except _MISREAD as error:
        raise ExportError(f"{path}: its tensors are not what its manifest says ({str(error).partition(chr(10))[0]})") from error
    return Content(manifest, document, tensors)


class _Packer:
    """Decides how each tensor is stored."""

    def __init__(self, widths: Mapping[str, int]) -> None:
        self.stored: dict[str, Tensor] = {}
        self.same: dict[str, str] = {}
        self.packed: dict[str, Any] = {}
        self.compressed: dict[str, Any] = {}
        self._widths = widths
        self._names: dict[tuple[Any, ...], str] = {}

    def add(self, name: str, tensor: Tensor) -> None:
        content, bits = _bytes(tensor), self._widths.get(name)
        key = (tensor.dtype, tensor.shape, bits, hashlib.sha256(content).digest())
        if self._names.setdefault(key, name) != name:
            self.same[name] = self._names[key]
        elif bits is not None:
            self.stored[name] = pack(tensor, bits)
            self.packed[name] = {"bits": bits, "signed": tensor.dtype == torch.int8, "shape": list(tensor.shape)}
        else:
            smaller = zlib.compress(content, 9) if len(content) >= _WORTH_COMPRESSING else b""
            if smaller and 2 * len(smaller) <= len(content):
                self.stored[name] = _tensor_of(smaller)
                self.compressed[name] = {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
            else:
                self.stored[name] = tensor.detach().contiguous().clone()


def _restored(name: str, tensor: Tensor, manifest: Mapping[str, Any]) -> Tensor:
    if name in manifest["packed"]:
        form = manifest["packed"][name]
        shape = [int(size) for size in form["shape"]]
        return unpack(tensor, form["bits"], math.prod(shape), signed=bool(form["signed"])).reshape(shape)
    if name in manifest["compressed"]:
        form = manifest["compressed"][name]
        dtype = getattr(torch, form["dtype"])
        if not isinstance(dtype, torch.dtype):
            raise TypeError(f"{form['dtype']} is no dtype")
        count = math.prod(form["shape"])
        return _tensor_of(_inflated(tensor, count * dtype.itemsize)).view(dtype).reshape(form["shape"])
    return tensor


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            return file.metadata() or {}, {name: file.get_tensor(name).clone() for name in names}
    except FileNotFoundError as error:
        raise ExportError(f"{path}: no such file") from error
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{path}: cut, or not a safetensors file ({str(error).partition(chr(10))[0]})") from error


def _manifest(path: Path, text: str) -> dict[str, Any]:
    try:
        manifest = json.loads(text)
        written = manifest["format"]
    except (ValueError, TypeError, KeyError) as error:
        raise ExportError(f"{path}: not a packed file of stillbit (its manifest cannot be read)") from error
    if written != FORMAT:
        raise ExportError(f"{path}: packed format {written!r}, of another stillbit than this one; allowed: {FORMAT}")
    return dict(manifest)


def _json(value: Any, what: str) -> str:
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise ExportError(f"{what} cannot be written as JSON: {error}") from error


def _hash(manifest: Mapping[str, Any], stored: Mapping[str, Tensor]) -> str:
    total = hashlib.sha256(_json(manifest, "the manifest").encode())
    for name in sorted(stored):
        tensor = stored[name]
        total.update(json.dumps([name, str(tensor.dtype), list(tensor.shape)]).encode())
        total.update(_bytes(tensor))
    return total.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return bytes(flat.numpy().data)


def _tensor_of(content: bytes) -> Tensor:
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8).copy())


def _inflated(tensor: Tensor, limit: int) -> bytes:
    """Undo zlib, up to so many bytes: a small file must not fill the memory."""
    content = zlib.decompressobj().decompress(_bytes(tensor), limit + 1)
    if len(content) > limit:
        raise ValueError(f"more than {limit} bytes")
    return content
