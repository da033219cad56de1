"""lm-evaluation-harness' `local-completions`, where it is installed.

    pip install 'lm-eval[api]'

It sends token ids, several prompts in a body and several bodies at once, and cuts what
it reads: the log-probabilities it finds must be those of the tokens it asked about.
"""

import pytest

from shared.config.fields import MachineConfig
from shared.data.tokenizer import load_tokenizer
from tests import served_model
from tests.scripted_engine import TOKENIZER, ScriptedEngine, logprob, reply
from tests.served import COMPLETIONS, serving
from wmtp_jax.decoding.engine import Engine
from wmtp_jax.decoding.loaded import load

lm_eval = pytest.importorskip("lm_eval")
CONTEXTS = ("abc", "naïve", "x = 1\ny =")  # it moves a space at their end
CONTINUATIONS = (" de", " é€", " 2")
MANY = {"num_concurrent": 3, "batch_size": 2}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("tokenizer")
    load_tokenizer("bytes").implementation.save_pretrained(str(made))
    return str(made)


def harness_of(here, tokenizer, **options):
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    return LocalCompletionsAPI(
        base_url=f"http://127.0.0.1:{here.port}{COMPLETIONS}",
        model=here.model,
        tokenizer=tokenizer,
        tokenizer_backend="huggingface",
        max_retries=1,
        **options,
    )


@pytest.fixture(params=["one by one", "batches at once"])
def harness(request, folder):
    many = MANY if request.param == "batches at once" else {}
    with serving(ScriptedEngine) as here:
        yield harness_of(here, folder, max_length=100, **many)


def instances(kind, arguments):
    from lm_eval.api.instance import Instance

    return [
        Instance(request_type=kind, doc={}, arguments=of, idx=i)
        for i, of in enumerate(arguments)
    ]


def test_how_probable_a_continuation_is(harness):
    pairs = list(zip(CONTEXTS, CONTINUATIONS, strict=True))
    found = harness.loglikelihood(instances("loglikelihood", pairs))
    for (_, continuation), (value, greedy) in zip(pairs, found, strict=True):
        right = sum(map(logprob, TOKENIZER.spell(continuation)))
        assert value == pytest.approx(right)
        assert greedy  # the script calls every token the most probable


def test_how_probable_a_text_is(harness):
    texts = [(context,) for context in CONTEXTS]
    found = harness.loglikelihood_rolling(instances("loglikelihood_rolling", texts))
    for (text,), value in zip(texts, found, strict=True):
        assert value == pytest.approx(sum(map(logprob, TOKENIZER.spell(text))))


def test_what_is_generated(harness):
    asked = [(text, {"until": ["b"], "max_gen_toks": 20}) for text in CONTEXTS]
    found = harness.generate_until(instances("generate_until", asked))
    assert found == [reply(text).split("b")[0] for text in CONTEXTS]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return served_model.folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def asked_model(model):
    loaded = load(model, MachineConfig())
    with serving(lambda: Engine(loaded, rows=4), queue=64) as here:
        yield harness_of(here, model, max_length=served_model.LONGEST, **MANY)


def test_a_model_as_transformers_has_it(asked_model, model):
    """Continuations that it would say itself are told as greedy, and only those."""
    tokenizer = load_tokenizer(model)
    contexts = [tokenizer.spell(text) for text in (*CONTEXTS, "def f(x):")]
    pairs = []
    for i, ids in enumerate(contexts):
        said = served_model.greedy(ids, 3)
        pairs += [(("", ""), ids, said), (("", ""), ids, [*said[:-1], 40 + i])]
    found = asked_model._loglikelihood_tokens(pairs)
    for i, ((_, ids, after), (value, greedy)) in enumerate(
        zip(pairs, found, strict=True)
    ):
        right = served_model.logprobs(ids + after)[len(ids) - 1 : -1]
        assert value == pytest.approx(sum(right[range(len(after)), after]), abs=1e-3)
        assert greedy == (i % 2 == 0)


def test_a_model_says_what_transformers_says(asked_model, model):
    tokenizer = load_tokenizer(model)
    asked = [(text, {"until": ["\n\n"], "max_gen_toks": 12}) for text in CONTEXTS]
    found = asked_model.generate_until(instances("generate_until", asked))
    for text, said in zip(CONTEXTS, found, strict=True):
        ids = served_model.greedy(tokenizer.spell(text), 12)
        ends = [i for i, token in enumerate(ids) if token == tokenizer.eos_id]
        assert said == tokenizer.decode(ids[: min([*ends, 12])]).split("\n\n")[0]
