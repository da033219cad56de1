"""The command `generate`: what it says and writes, and what it refuses."""

import gc
import json

import jax
import pytest

from shared.config.fields import MachineConfig
from shared.data.chat import spell_prompt
from shared.data.tokenizer import load_tokenizer
from tests import served_model, trained
from wmtp_jax import generate
from wmtp_jax.decoding.engine import Engine
from wmtp_jax.decoding.loaded import load

PROMPT = "def add(x, y):\n"
MOST = 8
TOKENS = ["--max-tokens", str(MOST)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return served_model.folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


def said(capsys, *argv: str, code: int = 0) -> str:
    capsys.readouterr()
    assert generate.main(list(argv)) == code
    shown = capsys.readouterr()
    return shown.err if code else shown.out


def right(tokenizer, ids, count=MOST) -> str:
    tokens = served_model.greedy(ids, count)
    ends = [i for i, token in enumerate(tokens) if token == tokenizer.eos_id]
    return tokenizer.decode([*ids, *tokens[: min([*ends, count])]])[
        len(tokenizer.decode(ids)) :
    ]


def test_one_prompt_is_said_at_once_or_as_it_comes(folder, tokenizer, capsys):
    asked = ["--model", folder, "--prompt", PROMPT, *TOKENS]
    text = right(tokenizer, tokenizer.encode(PROMPT))
    assert text and said(capsys, *asked) == text + "\n"
    assert said(capsys, *asked, "--stream") == text + "\n"
    cut = text[3:5]
    assert said(capsys, *asked, "--stop", cut) == text[: text.find(cut)] + "\n"


def test_a_chat_is_laid_out_by_the_template(folder, tokenizer, capsys):
    asked = ["--model", folder, "--prompt", "Add x and y.", "--chat", *TOKENS]
    ids = spell_prompt(tokenizer, [{"role": "user", "content": "Add x and y."}])
    assert said(capsys, *asked) == right(tokenizer, ids) + "\n"


def test_a_file_of_prompts_and_samples(folder, tokenizer, tmp_path, capsys):
    prompts, to = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows = [{"id": f"{i}\u2028", "prompt": PROMPT[: 9 + i]} for i in range(3)]
    lines = [json.dumps(row, ensure_ascii=False) + "\n\n" for row in rows]
    prompts.write_text("".join(lines), "utf-8")
    asked = ["--model", folder, "--prompts", str(prompts), "--to", str(to), *TOKENS]
    asked += ["--n", "2", "--temperature", "1", "--logprobs", "--ignore-eos"]
    said(capsys, *asked)
    lines = [json.loads(line) for line in to.read_text("utf-8").split("\n")[:-1]]
    assert [{k: line[k] for k in ("id", "prompt")} for line in lines] == rows
    for line in lines:
        first, second = line["completions"]
        assert first["text"] != second["text"]
        ids = tokenizer.encode(line["prompt"])
        for made in (first, second):
            assert made["finish"] == "length" and len(made["tokens"]) == MOST
            whole = served_model.logprobs([*ids, *made["tokens"]])
            own = [whole[len(ids) - 1 + i, t] for i, t in enumerate(made["tokens"])]
            assert made["logprobs"] == pytest.approx(own, abs=1e-4)


@pytest.mark.parametrize(
    "argv, part",
    [
        ([], "--prompt or --prompts must be given, got neither"),
        (["--prompt", "a", "--n", "0"], "--n must be >= 1, got 0"),
        (["--prompt", "a", "--rows", "0"], "--rows must be >= 1, got 0"),
        (["--prompt", "a", "--top-p", "2"], "top_p must be in (0, 1], got 2.0"),
        (["--prompt", "a", "--temperature", "nan"], "temperature must be finite"),
        (["--prompt", "a", "--stop", ""], "stop must be texts that are not empty"),
        (["--prompt", "a", "--seed", str(2**70)], "seed must be"),
        (["--prompt", "a b " * 300], "the prompt must have 1 to 256 tokens"),
        (["--prompt", "a", "--drafter", "heads"], "needs a model with heads k >= 1"),
        (["--prompts", "nowhere.jsonl"], "--prompts must be a text file"),
        (["--prompt", "a", "--model", "nowhere"], "--model must be"),
        (["--prompt", "a", "--model", "tiny"], "--model must hold weights"),
    ],
)
def test_bad_input_is_one_line(argv, part, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shown = said(capsys, "--model", folder, *argv, "--to", "out.jsonl", code=2)
    assert part in shown and shown.count("\n") == 1
    assert not list(tmp_path.rglob("out.jsonl*"))


@pytest.mark.parametrize(
    "line, part",
    [
        ("{", "JSON lines, got"),
        ("[1]", "must hold objects, got '[1]' in line 1"),
        ('{"text": "a"}', "must have a text `prompt`, got ['text']"),
        ("", "must hold at least one prompt, got none"),
    ],
)
def test_a_bad_file_of_prompts_is_one_line(line, part, folder, tmp_path, capsys):
    (tmp_path / "in.jsonl").write_text(line)
    asked = ["--model", folder, "--prompts", str(tmp_path / "in.jsonl")]
    shown = said(capsys, *asked, code=2)
    assert part in shown and shown.count("\n") == 1


def test_ctrl_c_leaves_no_file(folder, tmp_path, monkeypatch, capsys):
    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(Engine, "step", stop)
    to = tmp_path / "out.jsonl"
    asked = ["--model", folder, "--prompt", PROMPT, "--to", str(to)]
    assert said(capsys, *asked, code=130).strip().endswith("stopped")
    assert not to.exists()


def test_what_is_stopped_goes_on(folder, tmp_path, monkeypatch, capsys):
    """The second call writes the lines that are missing, and those alone."""
    texts = [PROMPT, "def mul(x, y):\n", "import"]
    asked = ["--model", folder, *(x for t in texts for x in ("--prompt", t)), *TOKENS]
    asked += ["--rows", "1", "--drafter", "none"]
    said(capsys, *asked, "--to", str(tmp_path / "whole.jsonl"))
    to, step, steps = tmp_path / "out.jsonl", Engine.step, []

    def stops(self):
        steps.append(step(self))
        finished = [piece for pieces in steps for piece in pieces if piece.finish]
        if len(finished) == 2:  # of which the second is not told any more
            raise KeyboardInterrupt
        return steps[-1]

    monkeypatch.setattr(Engine, "step", stops)
    said(capsys, *asked, "--to", str(to), code=130)
    assert not to.exists()
    monkeypatch.setattr(Engine, "step", step)
    submit, submitted = Engine.submit, []

    def counts(self, request):
        submitted.append(request)
        return submit(self, request)

    monkeypatch.setattr(Engine, "submit", counts)
    said(capsys, *asked, "--to", str(to))
    assert len(submitted) == 2
    assert to.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_the_report_tells_how_many_drafts_were_kept(folder, capsys):
    asked = ["--model", folder, "--prompt", PROMPT, *TOKENS, "--ignore-eos", "--report"]
    assert generate.main(asked) == 0
    shown = capsys.readouterr()
    told = json.loads(shown.err)
    assert told["tokens"] == MOST and told["passes"] <= MOST
    assert shown.out.count("{") == 0


# Models.


def test_no_copy_of_the_weights_stays(folder):
    """What lives after loading and decoding is the weights once, and the cache."""
    gc.collect()
    before = {id(x) for x in jax.live_arrays()}
    model = load(folder, MachineConfig())
    engine = Engine(model, rows=1, drafter="ngram")
    gc.collect()
    own = [x for x in jax.live_arrays() if id(x) not in before]
    size = sum({id(x): x.nbytes for x in jax.tree.leaves(model.params)}.values())
    assert sum(x.nbytes for x in own) == size > 0
    assert model.params["unembed"] is model.params["embed"]
    assert engine.model.params["layers"] is model.params["layers"]


def test_checkpoints_and_exports_of_both_trainers(whole_run, capsys):
    """The newest checkpoint says what the export says, with its heads drafting."""
    from wmtp_jax import train as jax_train
    from wmtp_torch_mps import train as torch_train

    done = whole_run(jax_train, "baseline")
    last = max(int(x.name) for x in (done / "checkpoints").iterdir())
    ask = ["--prompt", PROMPT, "--max-tokens", "6", "--ignore-eos", "--model"]
    texts = {said(capsys, *ask, f"{done}/checkpoints/{last}")}
    for name, drafter in ((done, "both"), (done / "model", "none")):
        texts.add(said(capsys, *ask, str(name), "--drafter", drafter))
    assert len(texts) == 1
    other = whole_run(torch_train, "baseline")
    found = load(str(other), MachineConfig())
    assert found.heads.count == 2 and len(found.params["heads"]) == 1
    texts = {
        said(capsys, *ask, str(other), "--drafter", name) for name in ("none", "both")
    }
    assert len(texts) == 1
    step = max(int(x.name) for x in (other / "checkpoints").iterdir())
    shown = said(capsys, *ask, f"{other}/checkpoints/{step}", code=2)
    assert "wmtp_torch_mps.export" in shown and shown.count("\n") == 1


def test_a_run_that_trains_heads_only_decodes_without_them(tmp_path):
    from wmtp_jax import train as jax_train

    more = "--heads.only --head-type medusa --decoding.draft-vocab 30".split()
    more += "--train.max-steps 1 --train.save-every 1".split()
    done = trained.run(jax_train, tmp_path, "a", *more)
    alone = load(f"{done}/checkpoints/1", MachineConfig(), heads=False)
    assert alone.heads.count == 1 and alone.token_map is None
    whole = load(f"{done}/checkpoints/1", MachineConfig())
    assert len(whole.token_map) == 30 and whole.params["draft"].shape[0] == 30
    assert load(str(done), MachineConfig()).token_map == whole.token_map
