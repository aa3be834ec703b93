"""Reads files of torch.save without PyTorch, and refuses pickles that would run code."""

import io
import pickle
import resource
import zipfile
from pathlib import Path

import numpy as np
import pytest

from reversion_jax.weights import embeddings, torch_file


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_tensors_that_are_read_equal_those_of_torch_load(torch, tmp_path, zipped, dtype):
    base = torch.arange(24, dtype=getattr(torch, dtype)).reshape(4, 6)
    wanted = {"a": base, "part of the same storage": base[2], "deep": [{"p": torch.nn.Parameter(base + 1)}, 3, "x"]}
    torch.save(wanted, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    found = torch_file.read(tmp_path / "x.pt")
    np.testing.assert_array_equal(found["a"].astype(np.float32), base.float())
    np.testing.assert_array_equal(found["part of the same storage"].astype(np.float32), base[2].float())
    np.testing.assert_array_equal(found["deep"][0]["p"].astype(np.float32), (base + 1).float())
    assert found["deep"][1:] == [3, "x"]


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_embeddings_of_a1111_are_read(torch, tmp_path, zipped):
    vectors = torch.randn(2, 8)
    saved = {"string_to_token": {"*": 265}, "string_to_param": {"*": vectors}, "name": "hug", "step": 400}
    torch.save(saved, tmp_path / "other.pt", _use_new_zipfile_serialization=zipped)
    ((token, rows),) = embeddings.read(tmp_path / "other.pt").items()
    assert token == "hug"
    np.testing.assert_array_equal(rows, vectors)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_embeddings_of_a1111_in_a_parameter_dict_are_read(torch, tmp_path, zipped):
    """The first versions of A1111 stored vectors in a ParameterDict of PyTorch.

    Reading the file executes no code of ParameterDict.
    """
    vectors = torch.nn.Parameter(torch.randn(2, 8))
    saved = {"string_to_token": {"*": 265}, "string_to_param": torch.nn.ParameterDict({"*": vectors}), "name": "hug"}
    torch.save(saved, tmp_path / "other.pt", _use_new_zipfile_serialization=zipped)
    ((token, rows),) = embeddings.read(tmp_path / "other.pt").items()
    assert token == "hug"
    np.testing.assert_array_equal(rows, vectors.detach())


@pytest.mark.parametrize("opcode", [b"r\x00\x00\x00\x10", b"p268435456\n"], ids=["LONG_BINPUT", "PUT"])
def test_a_pickle_that_asks_for_too_much_memory_is_refused(tmp_path, opcode):
    (tmp_path / "x.bin").write_bytes(zipped(b"\x80\x02}" + opcode + b"."))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match="it asks for more memory than its content needs"):
        torch_file.read(tmp_path / "x.bin")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def test_a_tensor_that_is_not_contiguous_is_refused(torch, tmp_path):
    torch.save({"a": torch.randn(4, 6).T}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="not contiguous"):
        torch_file.read(tmp_path / "x.pt")


class Malice:
    """An object whose pickle writes a file when Python's `pickle` loads it."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self):
        return (Path.write_text, (self.target, "ran"))


def zipped(pickled: bytes, numbers: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/data/0", numbers)
    return buffer.getvalue()


@pytest.mark.parametrize("wrap", [zipped, bytes], ids=["zip", "bare"])
def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, wrap):
    path = tmp_path / "bad.pt"
    path.write_bytes(wrap(pickle.dumps({"<R>": Malice(tmp_path / "proof")}, protocol=2)))
    with pytest.raises(ValueError, match="a pickle can run code") as caught:
        torch_file.read(path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "proof").exists()


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    """The tensor has more numbers than its storage, or starts too late or too early in the storage."""
    whole = embeddings.write({"<R>": np.ones((1, 8), np.float32)}, "hug", tmp_path)[-1].read_bytes()
    pickled = zipfile.ZipFile(io.BytesIO(whole)).read("archive/data.pkl")
    for found, bad in ((b"K\x08\x85", b"K\x09\x85"), (b"QK\x00", b"QK\x01"), (b"QK\x00", b"QJ\xff\xff\xff\xff")):
        assert pickled.count(found) == 1
        (tmp_path / "bad.bin").write_bytes(zipped(pickled.replace(found, bad), np.ones(8, np.float32).tobytes()))
        with pytest.raises(ValueError, match="damaged"):
            torch_file.read(tmp_path / "bad.bin")


@pytest.mark.parametrize("content", [b"", b"no pickle", zipped(b"no pickle"), pickle.dumps(5)])
def test_files_that_torch_did_not_write_are_refused(tmp_path, content):
    (tmp_path / "x.bin").write_bytes(content)
    with pytest.raises(ValueError, match=r"cannot read .* damaged"):
        torch_file.read(tmp_path / "x.bin")


def test_a_pickle_that_changes_a_function_that_rebuilds_tensors_is_refused(tmp_path):
    change = b"ctorch._utils\n_rebuild_tensor_v2\n}(X\x08\x00\x00\x00__dict__K\x01ub."
    (tmp_path / "x.pt").write_bytes(zipped(b"\x80\x02" + change))
    with pytest.raises(ValueError, match="changes a function that rebuilds"):
        torch_file.read(tmp_path / "x.pt")


def test_a_compressed_file_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
    with pytest.raises(ValueError, match="compressed"):
        torch_file.read(tmp_path / "x.pt")


@pytest.mark.parametrize("vectors", [[1], None, {}])
def test_a_file_of_a1111_without_vectors_is_refused(torch, tmp_path, vectors):
    torch.save({"string_to_param": vectors, "name": [1]}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="is not an embedding"):
        embeddings.read(tmp_path / "x.pt")


def test_an_embedding_with_a_blank_name_is_refused(torch, tmp_path):
    torch.save({" ": torch.zeros(8)}, tmp_path / "x.pt")
    with pytest.raises(ValueError, match="give it another name"):
        embeddings.read(tmp_path / "x.pt")
