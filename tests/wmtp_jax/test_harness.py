"""lm-evaluation-harness' `local-completions`, where it is installed.

    pip install 'lm_eval[api]'

It sends token ids, several prompts in a body and several bodies at once, and cuts what
it reads: the log-probabilities it finds must be those of the tokens it asked about.
"""

import pytest

from shared.data.tokenizer import load_tokenizer
from tests.scripted_engine import TOKENIZER, ScriptedEngine, logprob, reply
from tests.served import COMPLETIONS, serving

lm_eval = pytest.importorskip("lm_eval")
CONTEXTS = ("abc", "naïve", "x = 1\ny =")  # it moves a space at their end
CONTINUATIONS = (" de", " é€", " 2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("tokenizer")
    load_tokenizer("bytes").implementation.save_pretrained(str(made))
    return str(made)


@pytest.fixture(params=["one by one", "batches at once"])
def harness(request, folder):
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    many = {"num_concurrent": 3, "batch_size": 2}
    with serving(ScriptedEngine) as here:
        yield LocalCompletionsAPI(
            base_url=f"http://127.0.0.1:{here.port}{COMPLETIONS}",
            model=here.model,
            tokenizer=folder,
            tokenizer_backend="huggingface",
            max_length=100,
            max_retries=1,
            **(many if request.param == "batches at once" else {}),
        )


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
