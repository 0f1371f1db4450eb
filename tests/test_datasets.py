"""Every format gives its prompts and pairs; every malformed line ends in one sentence with file, line and reason."""

import gzip
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infalign_edu.lm import lines
from infalign_edu.lm.datasets import Preference, load_preferences, load_prompts, split, turns

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
DIALOGUE = "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant:"


def write(path: Path, *rows: object) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_prompts_keep_their_columns(tmp_path, name):
    path = write(tmp_path / name, {"prompt": "one", "split": "train"}, "", {"prompt": "two", "split": "heldout"})
    prompts = load_prompts(path)
    assert list(prompts) == ["one", "two"]
    assert len(prompts) == 2
    assert prompts.where(split="heldout").prompts == ["two"]
    assert prompts.columns[0] == {"split": "train"}
    assert prompts.skipped == {}


def test_plain_text_is_one_prompt_a_line(tmp_path):
    assert load_prompts(write(tmp_path / "a.txt", "one ", "", "  two")).prompts == ["one", "two"]


def test_transcripts_split_at_the_last_assistant_turn(tmp_path):
    path = write(tmp_path / "hh.jsonl.gz", {"chosen": DIALOGUE + " Because.", "rejected": DIALOGUE + " No.\n"})
    assert load_preferences(path) == [Preference(DIALOGUE, "Because.", "No.")]
    assert load_prompts(path).prompts == [DIALOGUE]


def test_plain_pairs(tmp_path):
    path = write(tmp_path / "a.jsonl", {"prompt": "p", "chosen": "c", "rejected": ""})
    assert load_preferences(path) == [Preference("p", "c", "")]


BAD = {
    "not valid JSON": '{"prompt": "cut',
    "must be a JSON object, got list": "[1]",
    "prompt must be a string, got nothing": '{"question": "x"}',
    "prompt must be a string, got int": '{"prompt": 3}',
    "prompt is empty": '{"prompt": " "}',
    "prompt holds a NUL or an unpaired surrogate": '{"prompt": "a\\ud800"}',
    "holds a NUL byte": '{"prompt": "a\0"}',
    "not UTF-8 text": b'{"prompt": "caf\xe9"}',
    "longer than 1,000,000 bytes": '{"prompt": "' + "x" * 10_000_000 + '"}',
}


@pytest.mark.parametrize("reason", BAD)
def test_a_bad_line_is_named_or_counted(tmp_path, reason):
    bad = BAD[reason] if isinstance(BAD[reason], bytes) else BAD[reason].encode()
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"prompt": "one"}\n\n' + bad + b'\n{"prompt": "two"}\n' + bad)
    with pytest.raises(ValueError) as caught:
        load_prompts(path)
    assert str(caught.value) == f"{path}, line 3: {reason}{lines.REMEDY.get(reason, '')}"
    kept = load_prompts(path, skip_bad_lines=True)
    assert kept.prompts == ["one", "two"]
    assert kept.skipped == {reason: 2}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"prompt": "p", "chosen": "c"}, "rejected must be a string, got nothing"),
        ({"prompt": "p", "chosen": [{"role": "user"}], "rejected": "r"}, "chosen must be a string, got list"),
        ({"prompt": "p", "chosen": "c", "rejected": "c"}, "chosen and rejected are the same"),
        (
            {"chosen": DIALOGUE + " a", "rejected": DIALOGUE.replace("Hi", "Ho") + " b"},
            "must share their first Human: turn, got two dialogues",
        ),
        ({"chosen": "no turns", "rejected": DIALOGUE}, "chosen must be a transcript that starts with Human:"),
    ],
)
def test_bad_pairs(tmp_path, record, reason):
    good = {"prompt": "p", "chosen": "c", "rejected": "r"}
    path = write(tmp_path / "a.jsonl", good, record)
    with pytest.raises(ValueError, match=f"line 2: .*{reason}"):
        load_preferences(path)
    pairs = load_preferences(path, skip_bad_lines=True)
    assert len(pairs) == 1
    assert sum(pairs.skipped.values()) == 1


def test_dialogues_that_part_early_have_the_turns_they_share_as_their_prompt(tmp_path):
    start = "\n\nHuman: Hi\n\nAssistant:"
    pair = {"chosen": start + " Hello\n\nHuman: Why?\n\nAssistant: So.", "rejected": start + " Hey\n\nHuman: How?\n\nAssistant: No."}
    (found,) = load_preferences(write(tmp_path / "a.jsonl", pair))
    assert found.prompt == start
    assert found.chosen == "Hello\n\nHuman: Why?\n\nAssistant: So." and found.rejected.startswith("Hey")


def test_a_truncated_gzip_keeps_what_was_read_only_if_asked(tmp_path):
    rows = [{"prompt": f"prompt {i} {hash((i, 'x')) % 10**9}"} for i in range(5000)]
    whole = write(tmp_path / "a.jsonl.gz", *rows).read_bytes()
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"line \d+: the compressed file is cut short or damaged \(EOFError\)"):
        load_prompts(tmp_path / "a.jsonl.gz")
    kept = load_prompts(tmp_path / "a.jsonl.gz", skip_bad_lines=True)
    assert 1000 < len(kept) < 5000
    assert kept.prompts == [row["prompt"] for row in rows[: len(kept)]]
    (tmp_path / "b.jsonl.gz").write_bytes(b"no gzip at all")
    with pytest.raises(ValueError, match=r"line 1: the compressed file is cut short or damaged \(BadGzipFile\)"):
        load_prompts(tmp_path / "b.jsonl.gz")


def test_other_encodings(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"prompt": "caf\xc3\xa9"}\r\n')  # a byte order mark, Windows line ends
    assert load_prompts(path).prompts == ["café"]
    path.write_text('{"prompt": "one"}\n', encoding="utf-16")
    with pytest.raises(ValueError, match="line 1: (not UTF-8 text|holds a NUL byte)"):
        load_prompts(path)


def test_deep_nesting_and_files_with_nothing_in_them(tmp_path):
    path = write(tmp_path / "a.jsonl", "[" * 200_000)
    with pytest.raises(ValueError, match="line 1: not valid JSON"):
        load_prompts(path)
    path.write_text("\n\n")
    with pytest.raises(ValueError, match="must hold at least one good line, got none"):
        load_prompts(path)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("/nowhere/a.jsonl", FileNotFoundError, "file that exists, got /nowhere/a.jsonl"),
        (__file__, ValueError, r"must be a .jsonl or .txt file"),
        ("hub:owner/data.jsonl", ValueError, "hub:<owner>/<name>/<file>"),
        ("hub:owner/name/data.parquet", ValueError, "hub:<owner>/<name>/<file>"),
    ],
)
def test_specs_that_name_no_data(spec, error, message):
    with pytest.raises(error, match=message):
        load_prompts(spec)


def test_turns():
    assert turns("plain") == [{"role": "user", "content": "plain"}]
    assert [t["role"] for t in turns(DIALOGUE)] == ["user", "assistant", "user"]
    doubled = turns("\n\nHuman: a\n\nHuman: b\n\nAssistant:")
    assert doubled == [{"role": "user", "content": "a\n\nb"}]
    assert turns("say \n\nHuman: x")[0]["content"] == "say \n\nHuman: x"  # a quotation, not a dialogue


@given(st.lists(st.sampled_from("abcdefghijklmnop"), min_size=40), st.integers(0, 99))
def test_split_is_disjoint_by_prompt_and_deterministic(prompts, seed):
    items = [Preference(prompt, str(i), "") for i, prompt in enumerate(prompts)]
    if len(set(prompts)) < 6:
        return
    parts = split(items, [0.5, 0.25, 0.25], seed)
    assert Counter(x.chosen for part in parts for x in part) == Counter(x.chosen for x in items)
    texts = [{x.prompt for x in part} for part in parts]
    assert not (texts[0] & texts[1] or texts[0] & texts[2] or texts[1] & texts[2])
    assert parts == split(items, [0.5, 0.25, 0.25], seed)
    assert abs(len(texts[0]) - len(set(prompts)) / 2) <= 1


def test_split_depends_on_the_seed_and_refuses_empty_parts():
    prompts = [f"p{i}" for i in range(50)]
    assert split(prompts, [0.5], 0) != split(prompts, [0.5], 1)
    assert len(split(prompts, [0.5], 0)[0]) == 25
    with pytest.raises(ValueError, match="must leave each part a prompt, got 2 prompts"):
        split(["a", "b"], [0.8, 0.1], 0)
    with pytest.raises(ValueError, match="fractions must be positive and sum to at most 1"):
        split(prompts, [0.8, 0.3], 0)


def test_embedded_data():
    prompts = load_prompts("embedded")
    train, heldout = prompts.where(split="train"), prompts.where(split="heldout")
    assert len(train) > 4 * len(heldout) - 1 > 1000
    assert not set(train) & set(heldout)
    assert {row["kind"] for row in prompts.columns} == {"harmless", "harmful"}
    assert len(load_preferences("embedded")) == 4000


@pytest.mark.skipif(not SHARED.exists(), reason="the shared real data are not on this machine")
def test_real_data():
    path = SHARED / "hh-harmless-base" / "pairs.jsonl.gz"
    pairs = load_preferences(path)
    assert len(pairs) == 1600 and pairs.skipped == {}
    assert all(p.chosen != p.rejected for p in pairs)
    assert all(p.prompt.endswith("\n\nAssistant:") and turns(p.prompt)[-1]["role"] == "user" for p in pairs)
    assert len(load_prompts(SHARED / "seed-tasks" / "prompts.jsonl")) == 175


def test_reading_needs_no_torch():
    import subprocess
    import sys

    code = "import sys, infalign_edu.lm.datasets; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_line_limit_is_generous():
    assert lines.MAX_LINE >= 100_000
