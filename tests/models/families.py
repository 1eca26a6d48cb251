"""The listed families as published: their configs, only smaller, and what their templates do.

Values are those of each model's config.json and generation_config.json; layers, widths and
vocabulary are shrunk. Templates are shortened to what matters: roles, markers, refusals.
"""

from copy import deepcopy
from dataclasses import dataclass

from transformers import (
    Gemma2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from tests.conftest import CHATML, VOCABULARY, byte_tokenizer

SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.15,
    "pad_token_id": 0,
    "bos_token_id": 1,
}
LLAMA_3_1_ROPE = {
    "rope_type": "llama3", "rope_theta": 500000.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
LLAMA_3 = (
    "{% for m in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "<|start_header_id|>{{ m['role'] }}<|end_header_id|>\n\n{{ m['content'] | trim }}<|eot_id|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (  # v0.3: the system text goes before the last user message
    "{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] %}"
    "{% set loop_messages = messages[1:] %}{% else %}{% set loop_messages = messages %}{% endif %}"
    "{{ bos_token }}{% for m in loop_messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('conversation roles must alternate user/assistant') }}{% endif %}"
    "{% if m['role'] == 'user' %}{% if loop.last and system is defined %}"
    "[INST] {{ system }}\n\n{{ m['content'] }}[/INST]{% else %}[INST] {{ m['content'] }}[/INST]"
    "{% endif %}{% else %} {{ m['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/...') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n"
    "{{ m['content'] | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
PHI = (
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
QWEN2 = (
    "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are Qwen, created by Alibaba "
    "Cloud. You are a helpful assistant.<|im_end|>\n{% endif %}" + CHATML
)
QWEN3 = (  # thoughts of earlier answers are cut; thinking can be switched off
    "{% for m in messages %}{% set content = m['content'] %}"
    "{% if m['role'] == 'assistant' and '</think>' in content %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """`markers`: the template's special tokens. `stops`: generation_config's, by name.

    `rendered`: what a system text "Be brief." and the question "hi" become. `matrices`: a layer.
    """

    config: PreTrainedConfig
    template: str
    markers: tuple[str, ...]
    eos: str
    stops: tuple[str, ...]
    rendered: str
    matrices: int = 7

    def tokenizer(self) -> PreTrainedTokenizerFast:
        tokenizer = deepcopy(byte_tokenizer())
        new = [t for t in (*self.markers, self.eos, *self.stops) if t not in tokenizer.get_vocab()]
        tokenizer.add_special_tokens({"extra_special_tokens": list(dict.fromkeys(new))})
        tokenizer.eos_token = self.eos
        tokenizer.chat_template = self.template
        return tokenizer


HEADERS = ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>")
LLAMA_TEXT = (
    "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
CHATML_TEXT = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    "<|im_start|>assistant\n"
)


def llama(rope: dict, positions: int, tied: bool = False, **changes) -> LlamaConfig:
    return LlamaConfig(
        **{**SMALL, "max_position_embeddings": positions, "rms_norm_eps": 1e-5, **changes},
        rope_parameters=rope,
        tie_word_embeddings=tied,
    )


FAMILIES = {
    "llama-3": Family(
        llama({"rope_type": "default", "rope_theta": 500000.0}, 8192),
        LLAMA_3, HEADERS[:3], "<|eot_id|>", ("<|end_of_text|>", "<|eot_id|>"), LLAMA_TEXT,
    ),
    "llama-3.1": Family(
        llama({**LLAMA_3_1_ROPE, "factor": 8.0}, 131072),
        LLAMA_3, HEADERS, "<|eot_id|>", ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"), LLAMA_TEXT,
    ),
    "llama-3.2": Family(
        llama({**LLAMA_3_1_ROPE, "factor": 32.0}, 131072, tied=True, head_dim=16),
        LLAMA_3, HEADERS, "<|eot_id|>", ("<|end_of_text|>", "<|eom_id|>", "<|eot_id|>"), LLAMA_TEXT,
    ),
    "smollm2": Family(
        llama({"rope_type": "default", "rope_theta": 100000.0}, 8192, tied=True),
        CHATML, ("<|im_start|>", "<|im_end|>"), "<|im_end|>", ("<|im_end|>",), CHATML_TEXT,
    ),
    "mistral-v0.3": Family(
        MistralConfig(
            **SMALL, max_position_embeddings=32768, sliding_window=None, rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
        ),
        MISTRAL, ("[INST]", "[/INST]"), "</s>", ("</s>",), "<s>[INST] Be brief.\n\nhi[/INST]",
    ),
    "qwen2.5": Family(
        Qwen2Config(
            **SMALL, max_position_embeddings=32768, use_sliding_window=False, max_window_layers=21,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
            tie_word_embeddings=True,
        ),
        QWEN2, ("<|im_start|>", "<|endoftext|>"), "<|im_end|>", ("<|im_end|>", "<|endoftext|>"),
        CHATML_TEXT,
    ),
    "qwen3": Family(
        Qwen3Config(
            **SMALL, head_dim=32, max_position_embeddings=40960, attention_bias=False,
            rope_parameters={"rope_type": "default", "rope_theta": 1000000.0},
            tie_word_embeddings=True,
        ),
        QWEN3, ("<|im_start|>", "<|endoftext|>"), "<|im_end|>", ("<|im_end|>", "<|endoftext|>"),
        CHATML_TEXT,
    ),
    "gemma-2": Family(
        Gemma2Config(
            **SMALL, head_dim=32, max_position_embeddings=8192, sliding_window=8,
            query_pre_attn_scalar=32, attn_logit_softcapping=50.0, final_logit_softcapping=30.0,
            hidden_activation="gelu_pytorch_tanh",
        ),
        GEMMA, ("<start_of_turn>", "<end_of_turn>"), "<eos>", ("<eos>", "<end_of_turn>"),
        "<s><start_of_turn>user\nBe brief.\n\nhi<end_of_turn>\n<start_of_turn>model\n",
    ),
    "phi-3.5": Family(
        Phi3Config(
            **{**SMALL, "num_key_value_heads": 4}, max_position_embeddings=131072,
            original_max_position_embeddings=4096, sliding_window=262144,
            rope_parameters={
                "rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": 1.0,
                "original_max_position_embeddings": 4096,
                "short_factor": [1.0 + i / 10 for i in range(8)],
                "long_factor": [1.0 + 8 * i for i in range(8)],
            },
        ),
        PHI, ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"), "<|endoftext|>",
        ("<|end|>", "<|assistant|>", "<|endoftext|>"),
        "<|system|>\nBe brief.<|end|>\n<|user|>\nhi<|end|>\n<|assistant|>\n", matrices=4,
    ),
}  # fmt: skip
