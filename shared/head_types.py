"""The types of prediction heads: one row each, read by config, files and both trainers.

A head k >= 1 turns the state of the trunk into one of its own, and an unembedding turns
that into logits. A row says which tensors it has; how it computes stands in the table
of the same names in `wmtp_jax/heads.py` and in `wmtp_torch_mps/heads.py`.

Axes: V vocabulary, D width.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class HeadTensor:
    """One parameter of a head.

    Attributes:
      leaf: its name in the parameter tree, where heads are stacked.
      name: of its tensor in `mtp_heads.safetensors`, after `mtp_heads.K.`.
      shape: of the leaf without the stack, letters of the axes.
      turned: whether the file has it [out, in].
    """

    leaf: str
    name: str
    shape: str
    turned: bool = False


@dataclass(frozen=True, kw_only=True)
class HeadType:
    """What is known of a type of heads without computing anything.

    Attributes:
      doc: one line, for `--help` and the docs; `h` is the trunk's state after the
        final norm.
      tensors: its parameters.
      copies_block: whether it also has a copy of the trunk's last block and norm.
    """

    doc: str
    tensors: tuple[HeadTensor, ...] = ()
    copies_block: bool = False

    def numbers_before(self, width: int) -> int:
        """Numbers in the matrices that a head multiplies before its unembedding."""
        return sum(width**2 for tensor in self.tensors if tensor.shape == "DD")


HEAD_TYPES = {
    "linear": HeadType(
        doc="an unembedding of its own",
        tensors=(HeadTensor(leaf="unembed", name="weight", shape="VD"),),
    ),
    "residual": HeadType(
        doc="h + W2 silu(W1 h), then head 0's unembedding",
        tensors=tuple(
            HeadTensor(leaf=part, name=f"{part}.weight", shape="DD", turned=True)
            for part in ("inner", "outer")
        ),
    ),
    "medusa": HeadType(
        doc="h + silu(W h + b), then head 0's unembedding",
        tensors=(
            HeadTensor(leaf="kernel", name="outer.weight", shape="DD", turned=True),
            HeadTensor(leaf="bias", name="outer.bias", shape="D"),
        ),
    ),
    "block": HeadType(
        doc="a copy of the last layer and of the final norm, then head 0's unembedding",
        copies_block=True,
    ),
}


def help_text() -> str:
    """What `--help` says of the types."""
    rows = (f"{name}: {row.doc}" for name, row in HEAD_TYPES.items())
    return f"what a head k >= 1 is; {'; '.join(rows)}"
