"""Tensors in PyTorch's files, without PyTorch: read without running any of a file's code, and written."""

import collections
import io
import math
import pickle
import pickletools
import struct
import zipfile
from collections.abc import Callable
from typing import IO, Any, NoReturn

import ml_dtypes
import numpy as np
from etils import epath

# First number of the form that PyTorch wrote before 1.6; A1111's files may still have it.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_STORAGES = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
}


def read(path: epath.PathLike) -> Any:
    """What the file holds, tensors as NumPy arrays: plain containers, numbers, strings, tensors, parameters.

    A pickle can call anything it names; this one may name nothing but what rebuilds a tensor. ValueError, one line,
    for a file that names more, is damaged, or is not PyTorch's. OSError.
    """
    content = epath.Path(path).read_bytes()
    try:
        return _read_zip(content) if zipfile.is_zipfile(io.BytesIO(content)) else _read_legacy(content)
    except Refused as refused:
        raise ValueError(f"cannot read {path}: {refused}") from refused
    except Exception as error:  # a damaged pickle or archive may raise almost anything
        raise ValueError(f"cannot read {path}: not a file of tensors that torch.save wrote, or damaged") from error


class Refused(Exception):
    """The file asks for something that is not a tensor."""


def _read_zip(content: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise Refused("it is compressed, which torch.save's files never are")
        (pickled,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        folder = pickled.removesuffix("data.pkl")
        return _Tensors(archive.read(pickled), lambda key: archive.read(f"{folder}data/{key}")).load()


def _read_legacy(content: bytes) -> Any:
    """Pickles in a row (magic number, version, machine, object, keys of storages), then the storages' numbers."""
    stream = io.BytesIO(content)
    if _Tensors(stream).load() != _LEGACY_MAGIC:
        raise ValueError
    for _ in ("version", "machine"):
        _Tensors(stream).load()
    start = stream.tell()
    # The numbers come after the object that refers to them: once over it to learn their types, then again.
    first = _Tensors(stream)
    first.load()
    numbers = {}
    for key in _Tensors(stream).load():
        count = int.from_bytes(stream.read(8), "little")
        numbers[key] = stream.read(count * first.types[key].itemsize)
    stream.seek(start)
    return _Tensors(stream, numbers.__getitem__).load()


class _Tensors(pickle.Unpickler):
    """Finds nothing but tensors' parts. `numbers` gives the bytes of a storage by its key; without it, all are 0."""

    def __init__(self, pickled: bytes | IO[bytes], numbers: Callable[[str], bytes] | None = None) -> None:
        stream = io.BytesIO(pickled) if isinstance(pickled, bytes) else pickled
        start = stream.tell()
        # Python makes room for as many remembered objects as the highest index says, however short the file.
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if "PUT" in opcode.name and int(argument or 0) > count:
                raise Refused("it asks for more memory than it can fill")
        stream.seek(start)
        super().__init__(stream)
        self._numbers = numbers
        self.types: dict[str, np.dtype] = {}

    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in _STORAGES:
            return name
        if (module, name) not in _KNOWN:
            raise Refused(f"it holds more than tensors ({module}.{name}), and a pickle can run code")
        return _KNOWN[module, name]

    def persistent_load(self, reference: tuple) -> Any:
        if reference[0] == "module":  # the old form keeps a class's source text beside it, which nobody reads
            return reference[1]
        _, storage, key, _, count, *_ = reference
        dtype = self.types[key] = np.dtype(_STORAGES[storage])
        if self._numbers is None:
            return np.broadcast_to(np.zeros((), dtype), count)
        return np.frombuffer(self._numbers(key), dtype, count)


class _Fixed:
    """A function that the pickle may call, but not change."""

    __slots__ = ("__call",)
    __call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_Fixed__call", call)

    def __call__(self, *arguments: Any) -> Any:
        return self.__call(*arguments)

    def __setattr__(self, *_: object) -> NoReturn:
        raise Refused("it changes what rebuilds tensors")

    __setstate__ = __setattr__


class _ParameterDict(dict):
    """torch.nn.ParameterDict, of which only the parameters are kept."""

    def __setstate__(self, state: Any) -> None:
        found = state.get("_parameters") if isinstance(state, dict) else None
        if not isinstance(found, dict):
            raise ValueError
        self.update(found)


def _tensor(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: object) -> np.ndarray:
    """A contiguous tensor; others are refused, as strides could reach beyond the storage."""
    dense = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    if any(size > 1 and found != wanted for size, found, wanted in zip(shape, strides, dense, strict=True)):
        raise Refused("a tensor in it is not contiguous: save it with .contiguous()")
    if offset < 0 or min(shape, default=1) < 0:
        raise ValueError
    return storage[offset:][: math.prod(shape)].reshape(shape)


_KNOWN = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Fixed(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Fixed(lambda data, *_: data),
    ("torch.nn.modules.container", "ParameterDict"): _ParameterDict,
    ("__builtin__", "set"): _Fixed(set),
}


def pack(token: str, array: np.ndarray) -> bytes:
    """What `torch.load` reads as {token: tensor}, as PyTorch 1.x wrote it.

    array: float32, of one or two axes.
    """
    # ReVersion's own file is a zip of these three members. PyTorch takes it, old and new, weights_only too,
    # and so does A1111's scanner, which refuses the members that torch.save has added since. The older
    # form, some pickles in a row, opens no further tool, and diffusers could not map it into memory.
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in (
            ("data.pkl", _pickle(token, array.shape)),
            ("data/0", array.tobytes()),
            ("version", b"3\n"),
        ):
            member = zipfile.ZipInfo(f"archive/{name}")  # dated 1980: equal rows give equal files
            # Contents start at multiples of 64 bytes, as torch.save's do: mapped floats have to be aligned.
            padding = -(buffer.tell() + 30 + len(member.filename) + 4) % 64
            member.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
            archive.writestr(member, content)
    return buffer.getvalue()


def _pickle(token: str, shape: tuple[int, ...]) -> bytes:
    """The pickle of {token: tensor of `shape` [D] or [S, D], kept in data/0}: torch.save's very bytes."""
    strides = (shape[-1], 1)[-len(shape) :]
    return b"".join(
        (
            b"\x80\x02}q\x00" + _text(token, 1),
            b"ctorch._utils\n_rebuild_tensor_v2\nq\x02(",
            # The persistent id ("storage", torch.FloatStorage, "0", "cpu", how many numbers).
            b"(" + _text("storage", 3) + b"ctorch\nFloatStorage\nq\x04" + _text("0", 5) + _text("cpu", 6),
            _integer(math.prod(shape)) + b"tq\x07Q",
            # Offset, shape, strides, no gradient wanted, no hooks.
            _integer(0) + _integers(shape) + b"q\x08" + _integers(strides) + b"q\x09",
            b"\x89ccollections\nOrderedDict\nq\x0a)Rq\x0b",
            b"tq\x0cRq\x0ds.",
        )
    )


def _text(text: str, memo: int) -> bytes:
    return struct.pack("<cI", b"X", len(text.encode())) + text.encode() + b"q" + bytes([memo])


def _integers(values: tuple[int, ...]) -> bytes:
    """A tuple of one or two."""
    return b"".join(map(_integer, values)) + {1: b"\x85", 2: b"\x86"}[len(values)]


def _integer(value: int) -> bytes:
    if value < 1 << 8:
        return struct.pack("<cB", b"K", value)
    return struct.pack("<cH", b"M", value) if value < 1 << 16 else struct.pack("<ci", b"J", value)
