"""Our model in lm-evaluation-harness: its own numbers for the same weights."""

import json
import random

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from tests import hf_models, lm_eval_model, small_tokenizers
from wmtp_jax.harness_model import WMTP

pytestmark = pytest.mark.unaudited  # the harness computes as it likes
base, ours = lm_eval_model.base, lm_eval_model.ours


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
