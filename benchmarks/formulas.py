"""What a training step takes of each device, by formula: memory, products, exchanges.

For llama-shaped models with `linear` heads, AdamW, `machine.rematerialise layer` and
attention in blocks; every row is one document of L tokens. docs/scaling.md writes the
formulas out and holds them against XLA.

Axes: n layers, D width, N query heads, M key heads, H width of a head, F inner width,
V vocabulary, K heads, L positions, r rows of a device.
"""

from dataclasses import dataclass

from shared.config.fields import Config
from shared.tracking import flops
from wmtp_jax.block_attention import BLOCK
from wmtp_jax.row_blocks import block_sizes

# Arrays of one layer that live at once in its backward pass: of D, of (N + 2 M) H, and
# of F numbers a position; counted in XLA's list of what lives at the peak.
OF_WIDTH, OF_QKV, OF_INNER = 11, 3, 3
WHOLE = 4  # bytes of what is kept: parameters, moments, gradients


@dataclass(frozen=True)
class Shares:
    """How a step is shared out, and what a number of it takes.

    Attributes:
      data, fsdp, tensor: devices along each axis of the mesh.
      bytes: of a number in products: 2 for bfloat16, 4 for float32.
    """

    data: int
    fsdp: int
    tensor: int
    bytes: int = 2

    @property
    def devices(self) -> int:
        return self.data * self.fsdp * self.tensor

    @property
    def pieces(self) -> int:
        return self.fsdp * self.tensor


def layer_numbers(cfg: Config) -> tuple[int, int]:
    """Of one layer's matrices: `(computed by all of tensor alike, shared out)`."""
    model = cfg.model
    D, N, M, H = model.width, model.num_attention_heads, model.kv_heads, model.H
    return D * (N + 2 * M) * H, N * H * D + 3 * D * model.F


def parameters(cfg: Config) -> tuple[int, int]:
    """Numbers of all matrices and of all vectors, heads included."""
    model = cfg.model
    n, D = model.num_layers, model.width
    unembeddings = cfg.heads.count - 1 + (1 if model.tie_embeddings else 2)
    return n * sum(layer_numbers(cfg)) + unembeddings * model.vocab_size * D, (
        (2 * n + 1) * D
    )


def rows(cfg: Config, shares: Shares) -> int:
    """Of a micro-batch on each device."""
    return cfg.data.batch_size // (shares.data * shares.fsdp)


def memory(cfg: Config, shares: Shares) -> dict[str, float]:
    """Bytes of a device: what it keeps, and what lives at once in a step.

    `temporary` is the larger of two moments: a layer's backward pass, and a block of
    the heads' rows. Without `copy of layers`, which XLA's CPU backend makes of their
    pieces, in the order in which its products read them.
    """
    model, b, t = cfg.model, shares.bytes, shares.tensor
    n, D, V, K = model.num_layers, model.width, model.vocab_size, cfg.heads.count
    matrices, vectors = parameters(cfg)
    whole, split = layer_numbers(cfg)
    positions = rows(cfg, shares) * cfg.data.max_length
    qkv = (model.num_attention_heads + 2 * model.kv_heads) * model.H
    unembed, used = V * D / t, whole + split / t
    numbers = OF_WIDTH * D + OF_QKV * qkv + OF_INNER * model.F / t
    parts = {
        "parameters": WHOLE * (matrices / shares.pieces + vectors),
        "moments": 2 * WHOLE * (matrices / shares.pieces + vectors),
        "gradients": WHOLE * (matrices / shares.pieces + vectors),
        "copy of layers": WHOLE * n * (whole + split) / shares.pieces,
        "inputs of layers": float(n * positions * D * b),
        "gathered layer": b * used,
        "gradient of a layer": WHOLE * used,
        "activations of a layer": positions * numbers * b,
    }
    block = block_sizes(positions, int(V / t), D)[0]
    heads = (2 * K + 4) * positions * D * b + (b + 2 * WHOLE) * unembed
    parts["heads"] = heads + 2 * WHOLE * block * V / t
    in_layer = max(parts["gradient of a layer"], parts["activations of a layer"])
    in_layer += parts["gathered layer"] + parts["gradients"] + WHOLE * unembed
    in_heads = parts["heads"] + WHOLE * K * V * D / shares.pieces
    parts["state"] = parts["parameters"] + parts["moments"]
    parts["temporary"] = parts["inputs of layers"] + max(in_layer, in_heads)
    parts["all"] = parts["state"] + parts["temporary"]
    return parts


def exchanged(
    cfg: Config, shares: Shares, *, scattered: bool = True
) -> dict[str, float]:
    """Bytes that a device receives in a step, over `data` x `fsdp` and over `tensor`.

    In rings: a gather over g devices brings (g - 1) / g of its result, a sum that is
    cut as much, one that all get twice as much.

    Args:
      scattered: whether a layer's gradient is cut where it is summed (XLA's GPU
        backend, where `data` is 1), not summed for all and then cut.
    """
    model, b, t = cfg.model, shares.bytes, shares.tensor
    n, D, K = model.num_layers, model.width, cfg.heads.count
    whole, split = layer_numbers(cfg)
    used, unembed = whole + split / t, model.vocab_size * D / t
    summed = WHOLE * (n * used + unembed)
    gathered = b * (2 * n * used + K * unembed) + WHOLE * unembed
    of_heads = WHOLE * K * unembed
    of_fsdp = _part(shares.fsdp) * (gathered + of_heads)
    if scattered and shares.data == 1:
        of_fsdp += _part(shares.fsdp) * summed
    else:
        of_fsdp += 2 * _part(shares.data * shares.fsdp) * summed
    of_fsdp += 2 * _part(shares.data) * of_heads / shares.fsdp
    positions = rows(cfg, shares) * cfg.data.max_length
    qkv = (model.num_attention_heads + 2 * model.kv_heads) * model.H
    sums = positions * D * (b * (5 * n + K) + WHOLE)
    gathers = b * n * (positions * qkv + 2 * whole / shares.fsdp)
    return {"fsdp": of_fsdp, "tensor": _part(t) * (2 * sums + gathers)}


def _part(count: int) -> float:
    return (count - 1) / count


def products(cfg: Config, shares: Shares, *, blocks: bool = False) -> float:
    """FLOPs that one device makes in a step: all layers twice forward.

    What `tensor` does not share out is made by all of it; `down` is not made again.

    Args:
      blocks: count whole blocks of attention, not the pairs that attend.
    """
    model, t = cfg.model, shares.tensor
    L, r = cfg.data.max_length, rows(cfg, shares)
    whole, split = layer_numbers(cfg)
    N, M = model.num_attention_heads, model.kv_heads
    parts = t if N % t == M % t == 0 else 1
    pairs = r * L * (L + (BLOCK if blocks else 1)) / 2
    attention = 4.0 * model.H * N / parts * pairs
    again = split - model.width * model.F
    layer = 2.0 * r * L * (3 * (whole + split / t) + whole + again / t)
    head = 6.0 * r * L * cfg.heads.count * model.vocab_size * model.width / t
    return model.num_layers * (layer + 4.5 * attention) + head


def needed(cfg: Config) -> float:
    """FLOPs of a step on all devices together, as `mfu` counts them."""
    lengths = [cfg.data.max_length] * cfg.data.batch_size
    kept = cfg.heads.count * sum(lengths)
    return 3 * flops.trunk_flops(cfg.model, lengths) + flops.head_flops(
        cfg, lengths, kept
    )


@dataclass(frozen=True)
class Machines:
    """What time is counted with; an H100 SXM in machines of eight by default.

    Attributes:
      peak: FLOPs a second of a device, in bfloat16.
      reached: the share of it that products reach; assumed.
      count: devices of one machine.
      inside: bytes a second that a device receives from others of its machine.
      between: bytes a second that a machine receives from all others.
    """

    peak: float = flops.PEAKS["H100"]
    reached: float = 0.5
    count: int = 8
    inside: float = 450e9
    between: float = 8 * 50e9


def seconds(cfg: Config, shares: Shares, on: Machines) -> dict[str, float]:
    """Of products, and of exchanges over both; as if nothing overlapped."""
    bytes_ = exchanged(cfg, shares)
    # Of `count` neighbours every `tensor` make one of the groups over fsdp.
    groups = min(shares.tensor, on.count)
    apart = shares.devices > on.count
    over_fsdp = bytes_["fsdp"] * groups / on.between if apart else 0.0
    if not apart:
        over_fsdp = bytes_["fsdp"] / on.inside
    within = shares.tensor <= on.count
    over_tensor = bytes_["tensor"] / (on.inside if within else on.between / on.count)
    return {
        "products": products(cfg, shares) / (on.reached * on.peak),
        "fsdp": over_fsdp,
        "tensor": over_tensor,
    }
