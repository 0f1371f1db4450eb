"""A run in slices of time is the whole run, bit for bit; its control learns nothing that the real reward sees."""

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_llama import WORDS, tiny_llama

import infalign_edu as ia
from infalign_edu.rl.slices import CONTROL, Slice, SliceOver, run
from infalign_edu.rl.slices.clock import hardware

pytest.importorskip("peft")


class Clock:
    """A second more at each look."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("real")
    torch.set_num_threads(1)
    tiny_llama().save(folder / "model")
    texts = [" ".join(words) for words in itertools.product(WORDS[:4], WORDS[:4], WORDS[:4])]
    rows = [{"prompt": text, "chosen": "w1 w1 w2", "rejected": f"{text} w5"} for text in texts]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = str(folder / "pairs.jsonl")
    return ia.CTRLConfig(
        model=str(folder / "model"), prompts=pairs, preferences=pairs, procedure="worst-of-4", transform="exp:-10",
        compare="identity", target_kl=0.5, lora_rank=4, reference_samples=8, training_prompts=6, heldout_prompts=4,
        evaluation_samples=6, steps=4, prompts_per_step=2, samples_per_prompt=4, max_new_tokens=5, learning_rate=5e-3,
        preference_pairs=40, threads=1, device="cpu",
    )  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("INFALIGN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def numbers(found):
    return [
        (o.trained.name, o.samples.rewards.tolist(), o.samples.kl.per_prompt.tolist(), o.path[0][1]) for o in found.outcomes
    ]


@pytest.fixture(scope="module")
def whole(config, tmp_path_factory):
    return run(replace(config, out=str(tmp_path_factory.mktemp("whole") / "run")), Slice())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_slices_are_the_whole_run(config, whole, tmp_path, dtype):
    config = replace(config, dtype=dtype)
    if dtype != "float32":
        whole = run(replace(config, out=str(tmp_path / "whole")), Slice())
    config, slices = replace(config, out=str(tmp_path / "cut")), 0
    while True:
        slices += 1
        part = Slice(7.0, clock=Clock())
        try:
            found = run(config, part)
            break
        except SliceOver:
            assert 1 <= part.done <= 4
    assert slices > 3 and numbers(found) == numbers(whole)
    for name in ("identity", "exp_-10", "random_reward"):
        metrics = [(tmp_path / "cut" / name / "metrics.jsonl").read_text().splitlines()]
        assert [json.loads(line)["step"] for line in metrics[0]] == [1, 2, 3, 4]
    assert found.used["train exp:-10"]["units"] == 4 == whole.used["train exp:-10"]["units"]
    assert run(config, Slice(0.0, clock=Clock())).outcomes[0].samples.kl.mean == whole.outcomes[0].samples.kl.mean


def test_what_a_run_leaves_behind(whole):
    names = [outcome.trained.name for outcome in whole.outcomes]
    assert names == ["identity", "exp:-10", CONTROL] and [arm.control for arm in whole.arms] == [False, False, True]
    assert whole.data.reward_name == "bradley-terry fitted on pairs.jsonl" and whole.model == "model"
    assert whole.outcomes[2].theory == {"standard": 0.5, "worst-of-4": 0.5} and whole.outcomes[1].theory["worst-of-4"] > 0.5
    assert all(outcome.samples.kl.mean > 0 for outcome in whole.outcomes)
    assert not np.array_equal(whole.outcomes[1].samples.rewards, whole.outcomes[2].samples.rewards)
    assert whole.comparison is None  # after four updates
    assert {"features", "calibration", "judge reference", "judge random reward", "train random reward"} <= set(whole.used)
    assert "thread" in hardware(torch.device("cpu"))
    assert all("w1" not in str(path.read_bytes()) for path in whole.outcomes[0].trained.files.path.parent.rglob("*.npz"))


def test_the_control_is_trained_on_noise_and_judged_by_the_reward(config, whole, monkeypatch):
    """Its table holds standard normal numbers, which know nothing of the learned rewards of the same responses."""
    out = whole.outcomes[0].trained.files.path.parent
    learned, noise = np.load(out / "calibration" / "part-000.npz")["rewards"]
    assert learned.shape == noise.shape == (6, 8) and abs(noise.mean()) < 0.6 and 0.5 < noise.std() < 1.5
    assert abs(np.corrcoef(learned.ravel(), noise.ravel())[0, 1]) < 0.5
    assert whole.outcomes[2].samples.rewards.std() > 0 and set(np.round(whole.outcomes[2].samples.rewards.ravel(), 9)) & set(
        np.round(whole.outcomes[1].samples.rewards.ravel(), 9)
    )


def test_a_comparison_at_matched_kl(config, tmp_path):
    config = replace(config, out=str(tmp_path / "r"), steps=20, learning_rate=0.02, samples_per_prompt=6, evaluation_samples=8)
    found = run(config, Slice())
    compared = found.comparison
    assert (compared.baseline, compared.transform) == ("identity", "exp:-10")
    assert compared.kl == pytest.approx(np.mean([o.samples.kl.mean for o in found.outcomes[:2]]))
    assert len(compared.difference.per_prompt) == 4 and math.isfinite(compared.theory)
    assert run(config, Slice(0.0, clock=Clock())).comparison.difference.mean == compared.difference.mean


def test_a_slice_does_at_least_one_unit_and_nothing_that_does_not_fit():
    part = Slice(2.0, clock=Clock())
    with part.unit("a"):
        part.clock.now += 50
    assert part.done == 1 and part.used["a"]["longest"] == 51
    with pytest.raises(SliceOver), part.unit("b"):
        raise AssertionError("time is up")
    fresh = Slice(40.0, clock=Clock(), used=part.used)
    with fresh.unit("b"):
        pass
    with pytest.raises(SliceOver), fresh.unit("a"):  # 51 seconds the last time
        raise AssertionError("it would not fit")
    with Slice().unit("a"):
        pass


def test_what_failed_is_no_unit_and_is_done_again(tmp_path):
    part = Slice(clock=Clock())
    part.keep(tmp_path / "used.json")
    with pytest.raises(ZeroDivisionError), part.unit("a"):
        1 / 0
    assert part.used == {} and not (tmp_path / "used.json").exists()
    with part.unit("a"):
        pass
    again = Slice(clock=Clock())
    again.keep(tmp_path / "used.json")
    assert again.used["a"]["units"] == 1


def test_features_are_cut_too(config, tmp_path, monkeypatch):
    monkeypatch.setenv("INFALIGN_CACHE", str(tmp_path / "cache"))
    part = Slice(2.5, clock=Clock())
    config = replace(config, out=str(tmp_path / "r"))  # 80 responses: two blocks
    with pytest.raises(SliceOver):
        run(config, part)
    assert part.used["features"]["units"] == 1 == len(list((tmp_path / "cache" / "features").iterdir()))
    with pytest.raises(SliceOver):
        run(config, again := Slice(2.5, clock=Clock()))
    assert again.used["features"]["units"] == 2 == len(list((tmp_path / "cache" / "features").iterdir()))


@pytest.mark.slow
def test_the_way_to_a_common_kl_is_cut_too(config, tmp_path):
    config = replace(config, steps=20, learning_rate=0.02, samples_per_prompt=6, evaluation_samples=8)
    whole, slices = run(replace(config, out=str(tmp_path / "whole")), Slice()).comparison, 0
    while True:
        slices += 1
        try:
            cut = run(replace(config, out=str(tmp_path / "cut")), Slice(9.0, clock=Clock())).comparison
            break
        except SliceOver:
            assert slices < 60
    assert cut.kl == whole.kl and cut.steps == whole.steps
    assert np.array_equal(cut.difference.per_prompt, whole.difference.per_prompt)
