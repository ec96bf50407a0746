"""Model files are opened, or refused with a reason and a name to look for."""

import json
import shutil

import pytest
import torch
from safetensors.torch import save_file

from octavo.loader.checkpoint import open_checkpoint
from octavo_api.errors import InvalidSetting, ModelUnavailable


@pytest.fixture
def folder(make_small, tmp_path):
    """A copy of the small Llama, in several shards, to be broken."""
    return shutil.copytree(make_small("llama").folder, tmp_path / "model")


def refusal(path, load_format="auto"):
    with pytest.raises(ModelUnavailable) as caught:
        open_checkpoint(path, load_format)
    return caught.value


def test_shards_are_read_as_one(folder, make_small):
    checkpoint = open_checkpoint(folder, "auto")
    expected = make_small("llama").reference.state_dict()
    found = {name: tensor.clone() for name, tensor in checkpoint.tensors()}
    assert len(list(folder.glob("*.safetensors"))) > 2
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert checkpoint.num_bytes == sum(tensor.nbytes for tensor in found.values())
    assert checkpoint.dtype == torch.float32


def test_the_widest_dtype_counts(folder):
    shutil.copy(folder / "config.json", folder.parent)
    for dtypes, widest in (((torch.bfloat16, torch.float16), torch.float16), ((torch.bfloat16, torch.float32), torch.float32)):
        save_file({f"t{index}": torch.zeros(2, dtype=dtype) for index, dtype in enumerate(dtypes)}, folder.parent / "model.safetensors")
        assert open_checkpoint(folder.parent, "auto").dtype == widest


def test_a_missing_shard(folder):
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink()
    error = refusal(folder)
    assert error.reason == "WeightsNotFound"
    assert shard.name in str(error)


def test_a_truncated_shard(folder):
    shard = sorted(folder.glob("*.safetensors"))[1]
    size = shard.stat().st_size
    with shard.open("r+b") as stream:
        stream.truncate(size - 100)
    error = refusal(folder)
    assert error.reason == "ModelInvalid"
    assert shard.name in str(error)
    assert f"has {size - 100} bytes and should have {size}" in str(error)


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64, (40).to_bytes(8, "little") + b"x" * 40])
def test_no_safetensors_at_all(folder, content):
    shard = sorted(folder.glob("*.safetensors"))[0]
    shard.write_bytes(content)
    error = refusal(folder)
    assert error.reason == "ModelInvalid"
    assert shard.name in str(error)


def test_a_broken_index(folder):
    (folder / "model.safetensors.index.json").write_text("[]")
    assert refusal(folder).reason == "ModelInvalid"


def test_packed_weights(folder):
    for file in folder.glob("model*"):
        file.unlink()
    save_file({"w": torch.zeros(2, dtype=torch.int8)}, folder / "model.safetensors")
    error = refusal(folder)
    assert error.reason == "UnsupportedModel"
    assert "I8" in str(error)


def test_nothing_there(tmp_path):
    assert refusal(tmp_path / "absent").reason == "WeightsNotFound"
    assert refusal(tmp_path).reason == "WeightsNotFound"
    assert refusal(tmp_path, "gguf").reason == "WeightsNotFound"
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "pytorch_model.bin must be converted to safetensors" in str(refusal(tmp_path))
    assert "is not a GGUF file" in str(refusal(tmp_path / "pytorch_model.bin"))


def test_no_config(folder):
    (folder / "config.json").unlink()
    error = refusal(folder)
    assert error.reason == "ModelInvalid"
    assert "config.json" in str(error)


def test_an_unknown_format(folder):
    with pytest.raises(InvalidSetting, match="load_format: is 'pickle'"):
        open_checkpoint(folder, "pickle")


def test_dummy_weights_are_the_same_every_time(folder, tmp_path, engine):
    """config.json alone makes a model, and the same one."""
    bare = tmp_path / "bare"
    bare.mkdir()
    shutil.copy(folder / "config.json", bare)
    first, second = (engine(bare, {"r": [1, 2, 3]}, load_format="dummy").tokens["r"] for _ in range(2))
    assert first == second
    assert len(first) == 64
    config = json.loads((bare / "config.json").read_text())
    (bare / "config.json").write_text(json.dumps({**config, "architectures": ["BertModel"]}))
    with pytest.raises(ModelUnavailable, match="BertModel; supported are LlamaForCausalLM"):
        engine(bare, {"r": [1]}, load_format="dummy")
