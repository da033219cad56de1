"""The adapter for lm-evaluation-harness: its own numbers for the model, and ours."""

import json
import logging
import random
import warnings

import pytest
import torch
import yaml

from shared.evaluation.results.kept import read_results
from shared.evaluation.results.of_problems import bits_per_byte
from shared.evaluation.tasks.prompts import find_form
from tests.started import folder_of

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what the harness imports
    from lm_eval import simple_evaluate
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from wmtp_jax import evaluate, harness

pytestmark = pytest.mark.unaudited  # the harness computes as it likes


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random model whose texts have an end and a bit of variety."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("lm_eval") / "base"
    return str(folder_of("gpt2", folder, vocab_size=259, n_positions=2048))


@pytest.fixture(scope="module")
def ours(base):
    return harness.WMTP(base, rows=4)


@pytest.fixture(scope="module")
def theirs(base):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
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


@pytest.fixture(autouse=True)
def harness_is_quiet(monkeypatch):
    monkeypatch.setattr("lm_eval.models.huggingface.tqdm", lambda x=(), **_: Bar(x))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class Bar(list):
    def update(self, *_):
        pass

    def close(self):
        pass


def test_log_likelihoods_are_the_harness_s(ours, theirs):
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


def test_the_same_numbers_there_and_here(base, ours, tmp_path, monkeypatch):
    """Of our tasks, without network: every text, every pass, every bit."""
    import socket

    def refuse(*_):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    place = ["--model", base, "--to", str(tmp_path), "--limit", "2", "--rows", "4"]
    assert evaluate.main([*place, "--form", "mbpp 3-shot"]) == 0
    results = read_results(tmp_path / "mbpp.jsonl")
    found = simple_evaluate(
        ours,
        tasks=["wmtp_mbpp", "wmtp_mbpp_bits"],
        task_manager=TaskManager(
            include_path=str(harness.TASKS),
            include_defaults=False,
            metadata={"source": "minis"},
        ),
        limit=2,
        bootstrap_iters=0,
    )
    texts = [sample["resps"][0][0] for sample in found["samples"]["wmtp_mbpp"]]
    assert texts == [result.completions[0].text for result in results]
    told = found["results"]
    assert told["wmtp_mbpp"]["pass_at_1,all"] == sum(x.c for x in results) / 2
    own = bits_per_byte(results)
    assert told["wmtp_mbpp_bits"]["bits_per_byte,none"] == pytest.approx(
        sum(own) / 2, rel=1e-6
    )


def test_right_answers_pass_there(monkeypatch):
    """The sandbox judges; a task's own text is what the harness would ask."""
    from wmtp_jax.harness_tasks import problems

    for task, form in (("mbpp", "mbpp 3-shot"), ("humaneval", "humaneval")):
        documents = problems.load(task, form)["test"]
        right, wrong = documents[0]["solution"].removesuffix("[DONE]"), "return 1 +"
        assert problems.judged(documents[0], [[right, wrong]]) == {"pass_at_1": 0.5}
    documents = problems.load("mbpp", "mbpp 3-shot", source="minis")["test"]
    size = len(documents[0]["solution"].encode())
    assert problems.bits(documents[0], [(-size, False)])["bits_per_byte"] == (
        pytest.approx(1 / 0.6931471805599453)
    )


@pytest.mark.parametrize(
    "path", sorted(harness.TASKS.glob("*.yaml")), ids=lambda x: x.stem
)
def test_tasks_stop_where_our_forms_do(path):
    class Loader(yaml.SafeLoader):
        """Functions stay the texts that they are named by."""

    Loader.add_constructor("!function", lambda loader, node: node.value)
    task = yaml.load(path.read_text(), Loader)
    asked = task["dataset_kwargs"]
    form = find_form(asked["task"], asked["form"])
    assert task["task"] == path.stem
    if task["output_type"] == "generate_until":
        kwargs = task["generation_kwargs"]
        assert tuple(kwargs["until"]) == form.stop
        assert kwargs["max_gen_toks"] == form.max_tokens and not form.counts_prompt


def test_the_command(base, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(harness, "keep_programs", lambda folder: None)
    file = tmp_path / "told.json"
    options = ["--model", base, "--tasks", "wmtp_humaneval_bits", "--limit", "1"]
    assert harness.main([*options, "--to", str(file)]) == 0
    assert "bits_per_byte" in capsys.readouterr().out
    assert json.loads(file.read_text())["results"]["wmtp_humaneval_bits"]
    assert harness.main(["--model", base, "--tasks", "wmtp_nothing"]) == 2
    told = capsys.readouterr().err.splitlines()
    assert "--tasks must be of wmtp_humaneval, " in told[-1]
    assert harness.main([*options, "--data", "nowhere"]) == 2
    assert "the source of humaneval must be" in capsys.readouterr().err
    logging.getLogger("lm_eval").setLevel(logging.NOTSET)
