"""What opened folders compute, with the parts of the stock model as the judge."""

import copy
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from shared.config.fields import HeadsConfig
from shared.data.tokenizer import load_tokenizer
from shared.huggingface.folder import write_model
from tests import exported
from tests.exported import (
    HEADS_FILE,
    NORM,
    ONE_PER_FAMILY,
    TYPES,
    K,
    L,
    V,
    last_layer,
    open_heads,
    padded,
    tokens,
)
from tests.small import small_config
from wmtp_jax import heads as jax_heads
from wmtp_jax import model as jax_model

modules_cache, made = exported.modules_cache, exported.made
CASES = [
    "gpt2-untied",
    "gpt2-codeparrot",
    "llama-tied-grouped",
    "llama-untied-biases",
    "qwen2-tied",
]


def additive(mask_BL: torch.Tensor) -> torch.Tensor:
    """[B, 1, L, L]: 0 where a position may look, the lowest number elsewhere."""
    causal = torch.ones(L, L, dtype=torch.bool).tril()
    may = (causal & mask_BL.bool()[:, None, :]) | torch.eye(L, dtype=torch.bool)
    lowest = torch.finfo(torch.float32).min
    return torch.where(may, 0.0, lowest)[:, None]


@torch.no_grad()
def expected(folder, head_type, tokens_BL, mask_BL, positions_BL) -> torch.Tensor:
    """Logits [B, L, K, V], from the parts of the stock model and the heads file."""
    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    tensors, family = load_file(folder / HEADS_FILE), model.config.model_type
    mask, norm = additive(mask_BL), model.get_submodule(NORM[family])
    out = model(
        tokens_BL,
        attention_mask=mask_BL,
        position_ids=positions_BL,
        output_hidden_states=True,
    )

    def run(layer, x):
        if family == "gpt2":
            return layer(x, None, mask)
        turns = model.model.rotary_emb(x, positions_BL)
        return layer(x, attention_mask=mask, position_embeddings=turns)

    before = run(last_layer(model), out.hidden_states[-2])
    after, logits = norm(before), [out.logits]
    for k in range(1, K):
        own = {
            name.removeprefix(f"mtp_heads.{k}."): x
            for name, x in tensors.items()
            if name.startswith(f"mtp_heads.{k}.")
        }
        if head_type == "linear":
            logits.append(after @ own["weight"].T)
            continue
        if head_type == "residual":
            gate = after @ own["inner.weight"].T
            state = after + (gate * torch.sigmoid(gate)) @ own["outer.weight"].T
        elif head_type == "medusa":
            gate = after @ own["outer.weight"].T + own["outer.bias"]
            state = after + gate * torch.sigmoid(gate)
        else:
            block, norm_k = copy.deepcopy(last_layer(model)), copy.deepcopy(norm)
            for part, name in ((block, "block."), (norm_k, "norm.")):
                inside = {n: x for n, x in own.items() if n.startswith(name)}
                part.load_state_dict(
                    {n.removeprefix(name): x for n, x in inside.items()}
                )
            state = norm_k(run(block, before))
        logits.append(state @ model.get_output_embeddings().weight.T)
    return torch.stack(logits, dim=2)


@pytest.mark.parametrize("head_type", TYPES)
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_computed_from_the_parts(made, case, head_type):
    folder, tokens_BL = made(case, head_type), tokens()
    model = {a: open_heads(folder, attn_implementation=a) for a in ("sdpa", "eager")}
    for side in ("none", "left", "right"):
        mask_BL, positions_BL = padded(side)
        right = expected(folder, head_type, tokens_BL, mask_BL, positions_BL)
        there = mask_BL.bool()
        for attention in ("sdpa", "eager"):
            for mask in (mask_BL, additive(mask_BL)):
                with torch.no_grad():
                    got = model[attention](
                        tokens_BL, attention_mask=mask, position_ids=positions_BL
                    ).logits
                assert got.shape == (2, L, K, V)
                torch.testing.assert_close(
                    got[there], right[there], atol=2e-5, rtol=1e-4
                )


@pytest.mark.parametrize("head_type", TYPES)
def test_the_loss_is_the_mean_over_heads_and_targets(made, head_type):
    model, labels_BL = open_heads(made("qwen2-tied", head_type)), tokens()
    labels_BL[0, :4] = labels_BL[1, 5] = -100
    out = model(tokens(), labels=labels_BL)
    nll_BLKV = -torch.log_softmax(out.logits.detach().double(), dim=-1)
    right = [
        nll_BLKV[b, place, k, labels_BL[b, place + 1 + k]]
        for b in range(2)
        for k in range(K)
        for place in range(L - 1 - k)
        if labels_BL[b, place + 1 + k] != -100
    ]
    assert out.loss.item() == pytest.approx(torch.stack(right).mean().item(), rel=1e-5)
    out.loss.backward()
    without = [n for n, x in model.named_parameters() if x.grad is None]
    assert not without and all(x.grad.any() for x in model.mtp_heads.parameters())


def test_no_targets_give_no_loss_rather_than_nan(made):
    model = open_heads(made("qwen2-tied", "linear"))
    nothing = model(tokens(), labels=torch.full((2, L), -100)).loss
    short = model(tokens()[:, :1], labels=tokens()[:, :1]).loss
    assert nothing.item() == short.item() == 0
    two = model(tokens()[:, :2], labels=tokens()[:, :2])  # one target, of head 0
    right = torch.nn.functional.cross_entropy(two.logits[:, 0, 0], tokens()[:, 1])
    torch.testing.assert_close(two.loss, right)


@pytest.mark.parametrize("case", ONE_PER_FAMILY)
def test_generation_is_that_of_the_base_model(made, case):
    model = open_heads(made(case, "block"))
    plain = AutoModelForCausalLM.from_pretrained(made(case, "block"))
    mask_BL, _ = padded("left")
    given = {"attention_mask": mask_BL, "do_sample": False, "pad_token_id": 0}
    right = plain.generate(tokens(), max_new_tokens=6, **given)
    assert torch.equal(model.generate(tokens(), max_new_tokens=6, **given), right)
    model.generation_config = transformers.GenerationConfig(max_new_tokens=3)
    shorter = model.generate(tokens(), **given)
    assert torch.equal(shorter, right[:, : L + 3])


@pytest.mark.parametrize("head_type", TYPES)
def test_forward_takes_what_a_causal_model_takes(made, head_type):
    model = open_heads(made("llama3-rope", head_type)).requires_grad_(False)
    out = model(tokens(), output_hidden_states=True, use_cache=True)
    assert len(out.hidden_states) == 4 and out.loss is None
    assert torch.equal(model(tokens(), return_dict=False)[0], out.logits)
    embedded = model.get_input_embeddings()(tokens())
    assert torch.equal(model(inputs_embeds=embedded).logits, out.logits)
    for keep in (1, 4):
        kept = model(tokens(), logits_to_keep=keep, labels=tokens())
        torch.testing.assert_close(kept.logits, out.logits[:, -keep:])
    tail = out.logits[:, -4:]
    right = sum(
        torch.nn.functional.cross_entropy(
            tail[:, : 3 - k, k].flatten(0, 1),
            tokens()[:, L - 3 + k :].flatten(),
            reduction="sum",
        )
        for k in range(K)
    )
    torch.testing.assert_close(kept.loss, right / (2 * (3 + 2 + 1)))
    with pytest.raises(ValueError, match="past_key_values must be None"):
        model(tokens(), past_key_values=transformers.DynamicCache())
    assert not last_layer(model.base)._forward_pre_hooks  # none is left behind


def test_packed_rows_attend_within_their_documents(made):
    model = open_heads(made("llama-tied-grouped", "block")).requires_grad_(False)
    row = tokens(rows=1)
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4]])
    packed = model(row, position_ids=positions).logits
    for part in (slice(0, 4), slice(4, L)):
        alone = model(row[:, part]).logits
        torch.testing.assert_close(packed[:, part], alone, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("head_type", TYPES)
def test_heads_follow_the_base_in_dtype_and_mode(made, head_type):
    folder = made("qwen2-untied", head_type)
    model = open_heads(folder, dtype=torch.bfloat16, attn_implementation="eager")
    assert {x.dtype for x in model.parameters()} == {torch.bfloat16}
    assert model.config._attn_implementation == "eager" and not model.training
    logits = model(tokens()).logits
    assert logits.dtype == torch.bfloat16
    assert model(tokens(), labels=tokens()).loss.dtype == torch.float32
    single = open_heads(folder, attn_implementation="eager")
    torch.testing.assert_close(
        logits.float(), single(tokens()).logits, atol=0.3, rtol=0
    )
    model.to(torch.float32).train()
    assert {x.dtype for x in model.parameters()} == {torch.float32}
    assert all(module.training for module in model.modules())
    names = load_file(folder / HEADS_FILE).keys()
    assert {n for n in model.state_dict() if not n.startswith("base.")} == names
    model.load_state_dict(single.state_dict())
    assert torch.equal(model.eval()(tokens()).logits, single(tokens()).logits)


def test_a_block_is_recomputed_under_activation_checkpointing(made):
    model = open_heads(made("gpt2-codeparrot", "block")).train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model(tokens(), labels=tokens()).loss.backward()
    right = {n: x.grad.clone() for n, x in model.named_parameters()}
    model.zero_grad()
    model.activation_checkpointing_enable({"use_reentrant": False})
    assert model.mtp_heads["1"].block.gradient_checkpointing
    model(tokens(), labels=tokens()).loss.backward()
    for name, x in model.named_parameters():
        torch.testing.assert_close(x.grad, right[name])


@pytest.mark.parametrize(
    "family, head_type",
    [("gpt2", "linear"), ("qwen2", "residual"), ("gpt2", "block"), ("llama", "block")],
)
def test_a_folder_that_we_write_gives_our_own_logits(tmp_path, family, head_type):
    cfg, rng = our_config(family, head_type), np.random.default_rng(1)
    shapes = jax.eval_shape(
        lambda key: jax_heads.init_params(key, cfg.model, cfg.heads), jax.random.key(0)
    )
    params = jax.tree.map(
        lambda x: 0.3 * rng.normal(size=x.shape).astype(np.float32), shapes
    )
    tokenizer = load_tokenizer("bytes")
    write_model(tmp_path / "out", params, cfg.model, cfg.heads, tokenizer)
    model = open_heads(tmp_path / "out").requires_grad_(False)
    tokens_BL = rng.integers(0, cfg.model.vocab_size, (2, L))
    got = model(torch.tensor(tokens_BL)).logits.numpy()
    right = jax.jit(lambda x: our_logits(x, tokens_BL, cfg))(params)
    np.testing.assert_allclose(got, right, atol=1e-4, rtol=1e-4)


def our_config(family: str, head_type: str):
    """A small config of that family, grouped and untied where the family can be."""
    cfg = small_config(head_type=head_type)
    layer = replace(cfg.model, vocab_size=259, scale_by_layer=family == "gpt2")
    if family != "gpt2":
        no_bias = {"out_bias": False, "mlp_bias": False, "qkv_bias": family == "qwen2"}
        layer = replace(
            layer, family=family, num_kv_heads=1, tie_embeddings=False, **no_bias
        )
        layer = replace(layer, activation="silu")
    return replace(cfg, model=layer, heads=HeadsConfig(count=K, type=head_type))


def our_logits(params, tokens_BL, cfg) -> jax.Array:
    """[B, L, K, V] of the JAX model, every row one document."""
    tokens_BL = jnp.asarray(tokens_BL, jnp.int32)
    positions_BL = jnp.tile(jnp.arange(L, dtype=jnp.int32), (len(tokens_BL), 1))
    outputs = jax_model.forward(
        params["trunk"], tokens_BL, positions_BL, jnp.ones_like(tokens_BL), cfg.model
    )
    states_KBLD = jax_heads.head_states(params, outputs, cfg)
    first_VD, own_KVD = jax_heads.unembeddings(params)
    unembed = [first_VD, *([first_VD] * (K - 1) if own_KVD is None else own_KVD)]
    return jnp.stack(
        [h_BLD @ w_VD.T for h_BLD, w_VD in zip(states_KBLD, unembed, strict=True)],
        axis=2,
    )
