"""The adapter for lm-evaluation-harness: its own numbers for the model, and ours."""

import json
import logging
import random
import sys

import pytest
import torch
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import TemplateLM
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml

from shared.evaluation.results.kept import read_results
from shared.evaluation.results.of_problems import bits_per_byte
from shared.evaluation.tasks.prompts import find_form
from shared.evaluation.walls.levels import SandboxError
from tests import hf_models, small_tokenizers
from tests.started import folder_of
from wmtp_jax import evaluate, harness
from wmtp_jax.harness_model import TASKS, WMTP
from wmtp_jax.harness_tasks import problems

pytestmark = pytest.mark.unaudited  # the harness computes as it likes


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random model whose texts have an end and a bit of variety."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("lm_eval") / "base"
    return str(folder_of("gpt2", folder, vocab_size=259, n_positions=2048))


@pytest.fixture(scope="module")
def ours(base):
    return WMTP(base, rows=4, drafter="none")  # fewer programs to compile


@pytest.fixture(scope="module")
def theirs(base):
    return HFLM(base, device="cpu", batch_size=4, add_bos_token=False)


def instances(kind, *arguments, task="stock"):
    return [
        Instance(kind, {}, args, number, (task, number, 1))
        for number, args in enumerate(arguments)
    ]


def texts(seed, number, least, most):
    draw = random.Random(seed)
    return [
        "".join(draw.choices("ab c\n", k=draw.randint(least, most)))
        for _ in range(number)
    ]


def test_log_likelihoods_are_the_harness_s(ours, theirs, caplog):
    """Contexts with white space at their end, none at all, and too long ones."""
    letters = "abcdefghijkl"
    first = ours.generate_until(instances("generate_until", *greedy_of(letters, 1)))
    pairs = zip(letters, first, strict=True)
    said = next(pair for pair in pairs if pair[1] and pair[1].isascii())
    contexts = [*texts(0, 6, 1, 90), "", "a b ", "x" * 2040]
    asked = [said, *zip(contexts, texts(1, len(contexts), 2, 30), strict=True)]
    found = ours.loglikelihood(instances("loglikelihood", *asked))
    right = theirs.loglikelihood(instances("loglikelihood", *asked), disable_tqdm=True)
    for (value, greedy), (own, own_greedy) in zip(found, right, strict=True):
        assert value == pytest.approx(own, rel=1e-5) and greedy == own_greedy
    assert [greedy for _, greedy in found] == [True, *[False] * len(contexts)]
    assert "prompts that have lost their beginning: 1 (" in caplog.text


def test_whole_texts_are_the_harness_s(ours, theirs):
    asked = [(text,) for text in ("a", *texts(2, 3, 20, 200), *texts(4, 1, 4400, 4400))]
    kind = "loglikelihood_rolling"
    right = theirs.loglikelihood_rolling(instances(kind, *asked), disable_tqdm=True)
    assert ours.loglikelihood_rolling(instances(kind, *asked)) == pytest.approx(
        right, rel=1e-5
    )


def greedy_of(contexts, most, **more):
    return [(x, {"until": ["\n\n"], "max_gen_toks": most} | more) for x in contexts]


def test_answers_come_in_the_order_of_requests(ours, theirs):
    asked = greedy_of([*texts(3, 5, 1, 60), "x" * 2060], 12)
    asked[2][1]["max_gen_toks"] = 3
    right = theirs.generate_until(instances("generate_until", *asked), True)
    assert ours.generate_until(instances("generate_until", *asked)) == right
    turned = ours.generate_until(instances("generate_until", *reversed(asked)))
    assert turned == right[::-1] and len(set(right)) > 1


LLAMA = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}[INST] "
    "{{ m['content'] }} [/INST]{% else %}{{ m['content'] }}</s>{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("kind", ["byte-level BPE", "metaspace with BOS"])
def test_tokens_are_the_harness_s(kind, tmp_path):
    """Also of a conversation, with its markers, and of an answer's beginning."""
    made = small_tokenizers.KINDS[kind]()
    if kind == "metaspace with BOS":
        made.chat_template = LLAMA
    made.save_pretrained(tmp_path)
    size = 1 + max(made.get_vocab().values())
    hf_models.save(hf_models.make("gpt2", vocab_size=size), tmp_path)
    ours, theirs = WMTP(str(tmp_path)), HFLM(str(tmp_path), device="cpu")
    asks = [{"role": "user", "content": "What is 2 + 3?"}]
    talk = [*asks, {"role": "assistant", "content": "5"}, asks[0]]
    begun = [*asks, {"role": "assistant", "content": "It is"}]
    plain = "def f(x):\n    "
    contexts = [(plain, plain)]
    for messages, whole in ((asks, True), (talk, True), (begun, False)):
        laid = [x.apply_chat_template(messages, whole) for x in (ours, theirs)]
        contexts.append(tuple(laid))
    for own, right in contexts:
        assert ours.tok_encode(own) == theirs.tok_encode(right)
        assert ours._encode_pair(own, " six") == theirs._encode_pair(right, " six")


def test_tasks_of_others_give_the_harness_s_numbers(ours, theirs, tmp_path):
    """Data in a file of one's own; three kinds of request."""
    rows = [
        {"asks": ask, "answers": ["ab", " c", "b a"], "right": i % 3, "text": ask * 9}
        for i, ask in enumerate(texts(7, 4, 4, 30))
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"data_files": {"test": str(file)}, "cache_dir": str(tmp_path / "cache")}
    asked = {
        "choice": {"doc_to_choice": "{{answers}}", "doc_to_target": "right"},
        "rolling": {"doc_to_target": "{{text}}"},
        "text": {"doc_to_target": "{{answers[right]}}"},
    }
    kinds = {
        "choice": ("multiple_choice", ["acc", "acc_norm"]),
        "rolling": ("loglikelihood_rolling", ["bits_per_byte", "word_perplexity"]),
        "text": ("generate_until", ["exact_match"]),
    }
    for name, (kind, metrics) in kinds.items():
        asked[name] |= {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": data,
            "test_split": "test",
            "output_type": kind,
            "doc_to_text": "" if name == "rolling" else "{{asks}}",
            "metric_list": [{"metric": metric} for metric in metrics],
        }
    asked["text"]["generation_kwargs"] = {"until": ["\n"], "max_gen_toks": 8}
    manager = TaskManager(include_defaults=False)
    own, right = (
        simple_evaluate(x, tasks=[*map(dict, asked.values())], task_manager=manager,
                        bootstrap_iters=0)
        for x in (ours, theirs)
    )  # fmt: skip
    for name, (_, metrics) in kinds.items():
        for metric in metrics:
            value = own["results"][name][f"{metric},none"]
            assert value == pytest.approx(right["results"][name][f"{metric},none"])
    for one, other in zip(
        own["samples"]["text"], right["samples"]["text"], strict=True
    ):
        assert one["resps"] == other["resps"]


def test_repeats_are_samples(ours):
    draws = {"temperature": 1.0, "do_sample": True}
    asked = greedy_of(["ab"] * 3, 12, **draws)
    found = ours.generate_until(instances("generate_until", *asked))
    assert len(set(found)) == 3
    assert ours.generate_until(instances("generate_until", *asked)) == found
    same = ours.generate_until(instances("generate_until", *greedy_of(["ab"] * 3, 9)))
    assert len(same) == 3 and len(set(same)) == 1
    with pytest.raises(ValueError, match="got num_beams"):
        asked = greedy_of(["a"], 4, num_beams=2)
        ours.generate_until(instances("generate_until", *asked))
    with pytest.raises(ValueError, match="temperature > 0 with do_sample, got none"):
        asked = greedy_of(["a"], 4, do_sample=True)
        ours.generate_until(instances("generate_until", *asked))


@pytest.mark.parametrize(
    "task, form", [("mbpp", "mbpp 3-shot"), ("mbpp_zero_shot", "mbpp zero-shot")]
)
def test_the_same_numbers_there_and_here(task, form, base, ours, tmp_path, monkeypatch):
    """Of our tasks, without network: every text, every pass, every bit."""
    import socket

    def refuse(*_):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    place = ["--model", base, "--to", str(tmp_path), "--limit", "2", "--rows", "4"]
    assert evaluate.main([*place, "--form", form, "--drafter", "none"]) == 0
    results = read_results(tmp_path / "mbpp.jsonl")
    has_bits = task == "mbpp"
    found = simple_evaluate(
        ours,
        tasks=[f"wmtp_{task}", *["wmtp_mbpp_bits"] * has_bits],
        task_manager=TaskManager(
            include_path=str(TASKS),
            include_defaults=False,
            metadata={"source": "minis"},
        ),
        limit=2,
        bootstrap_iters=0,
    )
    texts = [sample["resps"][0][0] for sample in found["samples"][f"wmtp_{task}"]]
    assert texts == [result.completions[0].text for result in results]
    told, own = found["results"], bits_per_byte(results)
    assert told[f"wmtp_{task}"]["pass_at_1,all"] == sum(x.c for x in results) / 2
    if has_bits:
        assert told["wmtp_mbpp_bits"]["bits_per_byte,none"] == pytest.approx(
            sum(own) / 2, rel=1e-6
        )


def test_right_answers_pass_there():
    """The sandbox judges; a task's own text is what the harness would ask."""
    for task, form in (("mbpp", "mbpp 3-shot"), ("humaneval", "humaneval")):
        documents = problems.load_to_judge(task, form)["test"]
        right, wrong = documents[0]["solution"].removesuffix("[DONE]"), "return 1 +"
        assert problems.judged(documents[0], [[right, wrong]]) == {"pass_at_1": 0.5}
    many = problems.judged(documents[0], [[right, *[wrong] * 19]])
    assert many == pytest.approx({"pass_at_1": 1 / 20, "pass_at_10": 1 / 2})
    documents = problems.load("mbpp", "mbpp 3-shot", source="minis")["test"]
    size = len(documents[0]["solution"].encode())
    assert problems.bits(documents[0], [(-size, False)])["bits_per_byte"] == (
        pytest.approx(1 / 0.6931471805599453)
    )


class Knows(WMTP):
    """Of the samples of a problem, the first is right."""

    def __init__(self):
        TemplateLM.__init__(self)

    def generate_until(self, requests, disable_tqdm=False):
        left = {(x.task_name, x.doc_id): x.doc["solution"] for x in requests}
        return [left.pop((x.task_name, x.doc_id), "1 +") for x in requests]


def test_every_sample_is_judged():
    manager = TaskManager(include_path=str(TASKS), include_defaults=False)
    asked = manager.load(["wmtp_mbpp", "wmtp_humaneval"])["tasks"]
    asked["wmtp_mbpp"].set_config("repeats", 10)
    found = simple_evaluate(
        Knows(),
        tasks=list(asked.values()),
        task_manager=manager,
        limit=2,
        bootstrap_iters=0,
        gen_kwargs={"temperature": 0.8, "do_sample": True},
    )
    told = found["results"]
    assert told["wmtp_mbpp"]["pass_at_1,all"] == pytest.approx(1 / 10)
    assert told["wmtp_mbpp"]["pass_at_10,all"] == 1.0
    assert told["wmtp_humaneval"]["pass_at_1,all"] == 1.0


def test_without_a_sandbox_nothing_runs(monkeypatch):
    def refuse(**_):
        raise SandboxError("no sandbox here")

    monkeypatch.setattr(problems, "level_for", refuse)
    with pytest.raises(ValueError, match="no sandbox here"):
        problems.load_to_judge("mbpp", "mbpp 3-shot")
    assert problems.load("mbpp", "mbpp 3-shot")["test"]


@pytest.mark.parametrize("path", sorted(TASKS.glob("*.yaml")), ids=lambda x: x.stem)
def test_tasks_stop_where_our_forms_do(path):
    task = load_yaml(path, resolve_func=False)
    asked = task["dataset_kwargs"]
    form = find_form(asked["task"], asked["form"])
    runs = task["output_type"] == "generate_until"
    assert task["task"] == path.stem
    assert ("load_to_judge" in str(task["custom_dataset"])) == runs
    if runs:
        kwargs = task["generation_kwargs"]
        assert tuple(kwargs["until"]) == form.stop
        most = "max_length" if form.counts_prompt else "max_gen_toks"
        assert kwargs[most] == form.max_tokens and len(kwargs) == 3


def test_the_command(base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("wmtp_jax.sharding.keep_programs", lambda folder: None)
    monkeypatch.setenv("TQDM_DISABLE", "1")  # kept as it was
    file = tmp_path / "told.json"
    include = f"include: {TASKS / 'wmtp_humaneval_bits.yaml'}\ntask: of_mine\n"
    (tmp_path / "of_mine.yaml").write_text(include)
    options = ["--model", base, "--limit", "1", "--include", str(tmp_path)]
    options += ["--tasks", "wmtp_humaneval_bits,of_mine"]
    assert harness.main([*options, "--to", str(file)]) == 0
    assert "bits_per_byte" in capsys.readouterr().out
    told = json.loads(file.read_text())["results"]
    assert told["wmtp_humaneval_bits"] and told["of_mine"]
    assert harness.main(["--model", base, "--tasks", "wmtp_nothing"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert "--tasks must be of wmtp_humaneval, " in told[-1]
    assert harness.main([*options, "--data", "nowhere"]) == 2
    assert "the source of humaneval must be" in capsys.readouterr().err
    assert harness.main([*options, "--data", "mbpp=minis", "humaneval=nowhere"]) == 2
    assert "the source of humaneval must be" in capsys.readouterr().err
    assert harness.main([*options, "--data", "nothing=minis"]) == 2
    assert "--data must be TASK=SOURCE of mbpp, " in capsys.readouterr().err
    logging.getLogger("lm_eval").setLevel(logging.NOTSET)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert harness.main(options) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "lm-evaluation-harness must be installed (pip install" in line
