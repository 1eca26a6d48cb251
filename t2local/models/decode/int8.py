"""int8 decoding on a CPU: a float model's weights packed in 8 bits, one token at a time.

The only way of decoding here that is not exact. A step is four products a layer (q, k, v and gate,
up stacked) and attention over a KV cache that is allocated beforehand; transformers' own forward
spends a third of its time between the products. Batch 1. Prompts are read by the ordinary forward:
`FastCache` takes its cache over and gives one back.
"""

import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import DynamicCache

from t2local.models.fit.anatomy import eight_bit_products, int8_problem
from t2local.models.fit.estimate import product_bytes
from t2local.models.load.loader import LoadedModel

MATRICES = (
    *(f"self_attn.{part}_proj" for part in "qkvo"),
    *(f"mlp.{part}_proj" for part in ("gate", "up", "down")),
)
ALPHA = 0.5  # how much of the activations' unevenness moves into the weights
SMALLEST = 1e-5
ROOM = 256  # tokens that a cache grows by at least
TEXT = (
    "What is 15 percent of 240, and why does ice float on water? 15 percent of 240 is 36. Ice "
    "floats because it is less dense than water:\n\n```python\ndef add(a, b):\n    return a + b\n"
    "```\n- first, the sun sets; then the children walk home (it is 7 o'clock)."
)

Matrices = Callable[[str], Tensor]  # matrix name -> the weight [m, n] to pack
Product = Callable[[Tensor], Tensor]  # [B, n] -> [B, m]


@dataclass(frozen=True)
class Int8Layer:
    """One decoder layer: two norms' weights `[h]` and four products, q/k/v and gate/up stacked."""

    attention_norm: Tensor
    qkv: Product
    out: Product
    mlp_norm: Tensor
    gate_up: Product
    down: Product


@dataclass(frozen=True)
class Int8Model:
    """All that a step needs. `cosines`, `sines`: `[T, d]`; the first half of the sines is −sin."""

    layers: tuple[Int8Layer, ...]
    embedding: Tensor  # [V, h] float32
    norm: Tensor
    head: Product
    cosines: Tensor
    sines: Tensor
    heads: int
    kv_heads: int
    head_size: int
    epsilon: float
    own_bytes: int  # of its layers' products in 8 bits; what copies share is `Packer.shared_bytes`


def why_not(loaded: LoadedModel) -> str:
    """Why this model cannot be packed here, in a few words; "" when it can."""
    if loaded.device != "cpu" or loaded.dtype != "float32" or loaded.quantization != "none":
        return "only float32 models on the CPU are packed"
    if loaded.spread:
        return "its layers are spread over memory and disk"
    if problem := int8_problem(type(loaded.model).__name__, loaded.model.config):
        return problem
    if not eight_bit_products():
        return "this processor has no 8-bit products (AVX-512 VNNI)"
    return ""


class Packer:
    """Packs `loaded`'s weights, or adapted ones of the same shapes; head and rotary only once.

    `product`: how a weight `[m, n]` with a bias becomes a product, `int8_product` by default.
    """

    def __init__(
        self, loaded: LoadedModel, product: Callable[[Tensor, Tensor | None], Product] | None = None
    ) -> None:
        assert not why_not(loaded), why_not(loaded)
        self._loaded, self._product = loaded, product or int8_product
        self._largest: dict[str, Tensor] = {}
        self._shared: tuple[Tensor, Product, Tensor, Tensor] | None = None

    @property
    def shared_bytes(self) -> int:
        """Of what all copies use together: the head in 8 bits, the rotary embedding; 0 at first."""
        if self._shared is None:
            return 0
        norm, _, cosines, sines = self._shared
        return product_bytes(*self._loaded.model.lm_head.weight.shape) + sum(
            tensor.nbytes for tensor in (norm, cosines, sines)
        )

    @torch.no_grad()
    def packing(self, matrices: Matrices) -> Generator[None, None, Int8Model]:
        """Pack the weights that `matrices` gives; yields after each layer, for others to go on."""
        model, config = self._loaded.model, self._loaded.model.config
        if self._shared is None:
            self._largest = largest_inputs(self._loaded)
            yield
            self._shared = self._share()
            yield
        layers = []
        for index in range(config.num_hidden_layers):
            layers.append(self._layer(f"model.layers.{index}.", matrices))
            yield
        norm, head, cosines, sines = self._shared
        return Int8Model(
            layers=tuple(layers),
            embedding=model.get_input_embeddings().weight,
            norm=norm,
            head=head,
            cosines=cosines,
            sines=sines,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_size=model.model.layers[0].self_attn.head_dim,
            epsilon=config.rms_norm_eps,
            own_bytes=config.num_hidden_layers * self._layer_bytes(),
        )

    def _layer(self, prefix: str, matrices: Matrices) -> Int8Layer:
        model, largest = self._loaded.model, self._largest

        def weights(names: tuple[str, ...]) -> list[Tensor]:
            return [matrices(prefix + name) for name in names]

        def bias(names: tuple[str, ...]) -> Tensor | None:
            found = [model.get_submodule(prefix + name).bias for name in names]
            return None if found[0] is None else torch.cat(found)

        def norm(name: str) -> Tensor:
            return model.get_submodule(prefix + name).weight

        attention = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
        qkv = torch.cat(weights(attention))
        gate, up = weights(("mlp.gate_proj", "mlp.up_proj"))
        down, out = weights(("mlp.down_proj", "self_attn.o_proj"))
        gate_bias, up_bias = bias(("mlp.gate_proj",)), bias(("mlp.up_proj",))
        # down(silu(gate) · up) = (down · s)(silu(gate) · up / s): free, for up is linear.
        scale = smoothing(largest[prefix + "mlp.down_proj"], down)
        up, down = up / scale[:, None], down * scale
        up_bias = None if up_bias is None else up_bias / scale
        gate_up = torch.cat([gate, up])
        both = None if up_bias is None else torch.cat([gate_bias, up_bias])
        of_qkv = smoothing(largest[prefix + attention[0]], qkv)
        of_mlp = smoothing(largest[prefix + "mlp.up_proj"], gate_up)
        product = self._product
        return Int8Layer(
            attention_norm=norm("input_layernorm") / of_qkv,
            qkv=product(qkv * of_qkv, bias(attention)),
            out=product(out, bias(("self_attn.o_proj",))),
            mlp_norm=norm("post_attention_layernorm") / of_mlp,
            gate_up=product(gate_up * of_mlp, both),
            down=product(down, bias(("mlp.down_proj",))),
        )

    def _layer_bytes(self) -> int:
        layer = self._loaded.model.model.layers[0]
        return sum(product_bytes(*layer.get_submodule(name).weight.shape) for name in MATRICES)

    def _share(self) -> tuple[Tensor, Product, Tensor, Tensor]:
        """The last norm, the head and the rotary embedding's cosines and sines."""
        model = self._loaded.model
        head, norm = model.lm_head, model.model.norm.weight
        scale = smoothing(self._largest["lm_head"], head.weight)
        positions = torch.arange(self._loaded.context_length)[None]
        cosines, sines = model.model.rotary_emb(norm, positions)  # [1, T, d]
        half = cosines.shape[-1] // 2
        sines = torch.cat([-sines[..., :half], sines[..., half:]], dim=-1)
        product = self._product(head.weight * scale, head.bias)
        return norm / scale, product, cosines[0], sines[0]


def smoothing(largest: Tensor, weight: Tensor) -> Tensor:
    """The factor `[n]` of each input channel of `weight` `[m, n]`: the weight takes it, x loses it.

    `largest`: the largest |x| of each channel.
    """
    inputs = largest.clamp(min=SMALLEST).pow(ALPHA)
    scale = inputs / weight.abs().amax(dim=0).clamp(min=SMALLEST).pow(1 - ALPHA)
    return scale / scale.log().mean().exp()


@torch.no_grad()
def largest_inputs(loaded: LoadedModel) -> dict[str, Tensor]:
    """Matrix name -> the largest |input| `[n]` of each channel over a short text, first token out.

    The first token's activations are hundreds of times the others'; it is never decoded.
    """
    layers = range(loaded.model.config.num_hidden_layers)
    parts = ("self_attn.q_proj", "mlp.up_proj", "mlp.down_proj")
    names = ["lm_head", *(f"model.layers.{i}.{part}" for i in layers for part in parts)]
    largest: dict[str, Tensor] = {}

    def look(name: str) -> Callable:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            largest[name] = inputs[0][0, 1:].abs().amax(dim=0)

        return hook

    hooks = [loaded.model.get_submodule(n).register_forward_pre_hook(look(n)) for n in names]
    try:
        ids = loaded.tokenizer.encode(TEXT, add_special_tokens=True)
        ids = ids[: loaded.context_length]
        loaded.model(torch.tensor([ids], device=loaded.model.device), use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return largest


def int8_product(weight: Tensor, bias: Tensor | None) -> Product:
    """`x -> W x + b` by 8-bit kernels; W `[m, n]` with a scale a row, x with one a token."""
    scale = (weight.abs().amax(dim=1) / 127).clamp(min=1e-12).double()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch is pinned: its successors of this are slower here
        rounded = torch.quantize_per_channel(
            weight.detach(), scale, torch.zeros(len(weight), dtype=torch.long), 0, torch.qint8
        )
    packed = torch.ops.quantized.linear_prepack(rounded, bias)
    linear = torch.ops.quantized.linear_dynamic.default
    return lambda x: linear(x, packed)


# --- The step and its KV cache.


class FastCache:
    """Keys and values of one sequence, with room for tokens to come: `[1, K, capacity, d]` each."""

    def __init__(self, ordinary: DynamicCache) -> None:
        """Take over what the ordinary forward has read."""
        self.length = self.capacity = ordinary.get_seq_length()
        self.keys = [layer.keys for layer in ordinary.layers]
        self.values = [layer.values for layer in ordinary.layers]

    def get_seq_length(self) -> int:
        """Tokens read so far, by the name that transformers' caches use."""
        return self.length

    def make_room(self) -> None:
        """See that one more token fits."""
        if self.length < self.capacity:
            return
        self.capacity = max(self.length + ROOM, self.length * 3 // 2)
        self.keys = [self._grown(old) for old in self.keys]
        self.values = [self._grown(old) for old in self.values]

    def ordinary(self) -> DynamicCache:
        """The same as transformers' cache."""
        cache = DynamicCache()
        for index, (keys, values) in enumerate(zip(self.keys, self.values, strict=True)):
            cache.update(keys[:, :, : self.length], values[:, :, : self.length], index)
        return cache

    def _grown(self, old: Tensor) -> Tensor:
        new = old.new_zeros(*old.shape[:2], self.capacity, old.shape[3])
        new[:, :, : self.length] = old[:, :, : self.length]
        return new


@dataclass(frozen=True)
class Int8Steps:
    """The steps of a packed model, as `Decoder.quickly` takes them."""

    model: Int8Model
    several = None

    def begin(self, ordinary: DynamicCache, n_tokens: int) -> FastCache:
        """Take the cache over; it grows by itself, whatever `n_tokens` come to be."""
        return FastCache(ordinary)

    def step(self, cache: FastCache, tokens: Tensor) -> Tensor:
        """Next-token logits `[1, V]` after one more token `[1]`."""
        return fast_step(self.model, cache, int(tokens))


@torch.no_grad()
def fast_step(model: Int8Model, cache: FastCache, token: int) -> Tensor:
    """Next-token logits `[1, V]` after `token`, which joins the cache."""
    cache.make_room()
    here, size, kv_heads = cache.length, model.head_size, model.kv_heads
    rotated = model.heads + kv_heads  # rows of q and k; those of v follow
    group = model.heads // kv_heads
    cosine, sine, half = model.cosines[here], model.sines[here], size // 2
    hidden, epsilon = model.embedding.shape[1:], model.epsilon
    x = model.embedding[token : token + 1]  # [1, h]
    for layer, keys, values in zip(model.layers, cache.keys, cache.values, strict=True):
        normed = torch.rms_norm(x, hidden, layer.attention_norm, epsilon)
        qkv = layer.qkv(normed).view(rotated + kv_heads, size)
        qk = qkv[:rotated]
        qk = torch.addcmul(qk * cosine, qk.roll(half, -1), sine)
        keys[0, :, here] = qk[model.heads :]
        values[0, :, here] = qkv[rotated:]
        # The heads that share keys are as many queries of one head: there is nothing to mask.
        heard = F.scaled_dot_product_attention(
            qk[: model.heads].view(1, kv_heads, group, size),
            keys[:, :, : here + 1],
            values[:, :, : here + 1],
        )
        x = x + layer.out(heard.reshape(1, -1))
        normed = torch.rms_norm(x, hidden, layer.mlp_norm, epsilon)
        gate, up = layer.gate_up(normed).chunk(2, dim=-1)
        x = x + layer.down(F.silu(gate).mul_(up))
    cache.length += 1
    return model.head(torch.rms_norm(x, hidden, model.norm, epsilon))
