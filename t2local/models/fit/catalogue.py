"""The models that are offered by name: what each is good for, its licence, how big it is.

Plain values; their sizes in memory follow from `architectures` by `estimate`. Any other model of
the Hub, a folder or a GGUF file works as well: this is only what a newcomer is shown. Knows
nothing of what is on this machine (`local`).
"""

from dataclasses import dataclass

from t2local.models.architectures import ARCHITECTURES

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


@dataclass(frozen=True)
class Entry:
    """One model of the catalogue."""

    id: str  # what `--model` takes: "embedded" or a Hub id
    title: str
    family: str
    parameters: int  # as published
    license: str
    license_url: str
    good_for: str  # one line for somebody who chooses
    gated: bool = False  # the Hub asks for an account that accepted the licence
    sees_images: bool = False

    @property
    def page(self) -> str:
        """The model's page on the Hub."""
        owner = "HuggingFaceTB/SmolLM2-135M-Instruct" if self.id == "embedded" else self.id
        return f"https://huggingface.co/{owner}"


def _entry(
    model_id: str, title: str, family: str, parameters: int, terms: tuple, good_for: str, **more
) -> Entry:
    return Entry(model_id, title, family, parameters, *terms, good_for, **more)


_ENTRIES = (
    _entry(
        "embedded", "SmolLM2 135M", "SmolLM2", 134_515_008, APACHE,
        "Comes with the app: runs on any laptop, answers simple questions",
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
