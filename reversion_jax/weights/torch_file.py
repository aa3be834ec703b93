"""Reads and writes tensors in PyTorch's file formats, without PyTorch. Reading never runs code from the file."""

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

# The first number in files that PyTorch wrote before version 1.6. A1111's embeddings may still have that format.
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
# The names of PyTorch's storage classes, and the NumPy types of their numbers.
_STORAGES = {
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16,
    "DoubleStorage": np.float64,
    "LongStorage": np.int64,
}


def read(path: epath.PathLike) -> Any:
    """Returns the content of a PyTorch file: containers, numbers, strings, tensors and parameters.

    Tensors and parameters become NumPy arrays. A pickle can call every function that it names, so this reader accepts
    only the functions that rebuild tensors. Raises ValueError, with a message of one line, if the file names another
    function, is damaged or is not PyTorch's, and OSError if the file cannot be read.
    """
    content = epath.Path(path).read_bytes()
    try:
        return _read_zip(content) if zipfile.is_zipfile(io.BytesIO(content)) else _read_legacy(content)
    except Refused as refused:
        raise ValueError(f"cannot read {path}: {refused}") from refused
    except Exception as error:  # a damaged pickle or archive may raise almost anything
        raise ValueError(f"cannot read {path}: it is damaged, or torch.save did not write it") from error


class Refused(Exception):
    """The file holds something that this reader does not accept; the message says what."""


def _read_zip(content: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise Refused("it is compressed, which torch.save's files never are")
        (pickled,) = (name for name in archive.namelist() if name.endswith("data.pkl"))
        folder = pickled.removesuffix("data.pkl")
        return _Tensors(archive.read(pickled), lambda key: archive.read(f"{folder}data/{key}")).load()


def _read_legacy(content: bytes) -> Any:
    """Reads the format that PyTorch wrote before version 1.6.

    The file is a sequence of pickles (magic number, version, machine, object, keys of the storages), and then the
    numbers of the storages.
    """
    stream = io.BytesIO(content)
    if _Tensors(stream).load() != _LEGACY_MAGIC:
        raise ValueError
    for _ in ("version", "machine"):
        _Tensors(stream).load()
    start = stream.tell()
    # The object comes before the numbers that it refers to. A first pass over the object finds the types of the
    # storages, so that their numbers can be read. A second pass builds the tensors.
    first = _Tensors(stream)
    first.load()
    numbers = {}
    for key in _Tensors(stream).load():
        count = int.from_bytes(stream.read(8), "little")
        numbers[key] = stream.read(count * first.types[key].itemsize)
    stream.seek(start)
    return _Tensors(stream, numbers.__getitem__).load()


class _Tensors(pickle.Unpickler):
    """An unpickler that rebuilds tensors and nothing else.

    numbers: a function that returns the bytes of a storage by its key; if None, all tensors are zeros.
    types: the dtype of each storage that was found, by its key.
    """

    def __init__(self, pickled: bytes | IO[bytes], numbers: Callable[[str], bytes] | None = None) -> None:
        stream = io.BytesIO(pickled) if isinstance(pickled, bytes) else pickled
        start = stream.tell()
        # Python's unpickler reserves memory up to the highest memo index in the file, however short the file is.
        for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if "PUT" in opcode.name and int(argument or 0) > count:
                raise Refused("it asks for more memory than its content needs")
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
        if reference[0] == "module":  # the old format adds a class's source code, which is ignored here
            return reference[1]
        _, storage, key, _, count, *_ = reference
        dtype = self.types[key] = np.dtype(_STORAGES[storage])
        if self._numbers is None:
            return np.broadcast_to(np.zeros((), dtype), count)
        return np.frombuffer(self._numbers(key), dtype, count)


class _Fixed:
    """A function that the pickle can call, but whose attributes it cannot change."""

    __slots__ = ("__call",)
    __call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_Fixed__call", call)

    def __call__(self, *arguments: Any) -> Any:
        return self.__call(*arguments)

    def __setattr__(self, *_: object) -> NoReturn:
        raise Refused("it changes a function that rebuilds tensors")

    __setstate__ = __setattr__


class _ParameterDict(dict):
    """Replaces torch.nn.ParameterDict and keeps only its parameters."""

    def __setstate__(self, state: Any) -> None:
        found = state.get("_parameters") if isinstance(state, dict) else None
        if not isinstance(found, dict):
            raise ValueError
        self.update(found)


def _tensor(storage: np.ndarray, offset: int, shape: tuple, strides: tuple, *_: object) -> np.ndarray:
    """Rebuilds a contiguous tensor. Raises Refused for other strides, which could reach beyond the storage.

    Takes the arguments of torch._utils._rebuild_tensor_v2; offset and strides are in elements.
    """
    dense = tuple(math.prod(shape[i + 1 :]) for i in range(len(shape)))
    if any(size > 1 and found != wanted for size, found, wanted in zip(shape, strides, dense, strict=True)):
        raise Refused("a tensor in it is not contiguous: save it with .contiguous()")
    if offset < 0 or min(shape, default=1) < 0:
        raise ValueError
    return storage[offset:][: math.prod(shape)].reshape(shape)


# For each object that a pickle may name, by module and name: what this reader uses instead.
_KNOWN = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Fixed(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Fixed(lambda data, *_: data),
    ("torch.nn.modules.container", "ParameterDict"): _ParameterDict,
    ("__builtin__", "set"): _Fixed(set),
}


def pack(token: str, array: np.ndarray) -> bytes:
    """Returns the bytes of a file that `torch.load` reads as {token: tensor}, in the format of PyTorch 1.6 and later.

    array: float32, with one or two axes.
    """
    # ReVersion's own file is a zip archive of these three members. Old and new versions of PyTorch load such an
    # archive, also with weights_only. A1111's scanner accepts these three members, but refuses the members that
    # torch.save has added since. No further tool needs the format from before PyTorch 1.6, and diffusers could not map
    # it into memory.
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in (
            ("data.pkl", _pickle(token, array.shape)),
            ("data/0", array.tobytes()),
            ("version", b"3\n"),
        ):
            member = zipfile.ZipInfo(f"archive/{name}")  # dated 1980, so that equal rows give equal files
            # As in torch.save's files, contents start at multiples of 64 bytes: memory-mapped floats must be aligned.
            padding = -(buffer.tell() + 30 + len(member.filename) + 4) % 64
            member.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
            archive.writestr(member, content)
    return buffer.getvalue()


def _pickle(token: str, shape: tuple[int, ...]) -> bytes:
    """Returns the pickle of {token: tensor}, byte for byte as torch.save writes it.

    shape: [D] or [S, D]. The pickle refers to the member data/0 for the tensor's numbers.
    """
    strides = (shape[-1], 1)[-len(shape) :]
    return b"".join(
        (
            b"\x80\x02}q\x00" + _text(token, 1),
            b"ctorch._utils\n_rebuild_tensor_v2\nq\x02(",
            # The persistent id ("storage", torch.FloatStorage, "0", "cpu", number of elements).
            b"(" + _text("storage", 3) + b"ctorch\nFloatStorage\nq\x04" + _text("0", 5) + _text("cpu", 6),
            _integer(math.prod(shape)) + b"tq\x07Q",
            # The tensor's offset, shape and strides, requires_grad=False, and no hooks.
            _integer(0) + _integers(shape) + b"q\x08" + _integers(strides) + b"q\x09",
            b"\x89ccollections\nOrderedDict\nq\x0a)Rq\x0b",
            b"tq\x0cRq\x0ds.",
        )
    )


def _text(text: str, memo: int) -> bytes:
    """Returns the opcodes of a string, which the unpickler stores at index `memo`."""
    return struct.pack("<cI", b"X", len(text.encode())) + text.encode() + b"q" + bytes([memo])


def _integers(values: tuple[int, ...]) -> bytes:
    """Returns the opcodes of a tuple of one or two integers."""
    return b"".join(map(_integer, values)) + {1: b"\x85", 2: b"\x86"}[len(values)]


def _integer(value: int) -> bytes:
    """Returns the opcode of an integer, in its shortest form."""
    if value < 1 << 8:
        return struct.pack("<cB", b"K", value)
    return struct.pack("<cH", b"M", value) if value < 1 << 16 else struct.pack("<ci", b"J", value)
