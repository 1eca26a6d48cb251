"""Experts and their mixture on a small vision-language model, measured on easy-VQA.

The model is LLaVA's architecture around the given language model, with a random, untrained vision
tower, so what can be learnt is what the language model's side can: which
answers a kind of question has, and whatever random features tell it. `shuffled` gives every
held-out question another question's picture: where it scores as well, pictures carried nothing.
One expert learns from questions about shapes, the other from all others; their mixture answers
both. Nothing is chosen by the held-out rows: the last step's z counts, each with α = 1.
"""

import copy
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import (
    LlavaNextImageProcessorPil,
)

from t2local import paths
from t2local.adapt.applier import holding
from t2local.errors import T2LocalError
from t2local.models.load.loader import LoadedModel, load_model
from t2local.progress import drain
from t2local.provenance import origin
from t2local.statistics import paired_difference, wilson
from t2local.svf import Mixture, SVFModel, Z, attach, compose
from t2local.tasks.benchmarks import data_folder
from t2local.tasks.files import read_examples
from t2local.tasks.rows import Example
from t2local.training.config import SVFMethod, TrainConfig
from t2local.training.loop import train
from t2local.training.reports import Checkpoint, StepReport
from t2local.training.validation import Scored, score_greedy

# --- A small LLaVA made from any loaded Llama-like model and a tiny random vision tower.
#
# It proves the path of pictures where no real vision-language model can be had: the language
# model's weights are the given ones, bit for bit; the tower (CLIP's architecture) and the
# projector are random, seeded and untrained, scaled so that a feature is as long as a token's
# embedding.

IMAGE_TOKEN = "<image>"


@dataclass(frozen=True)
class Tower:
    """The sizes of a random vision tower; a picture takes (`image` / `patch`)² tokens."""

    image: int = 64  # pixels a side
    patch: int = 32
    hidden: int = 128
    layers: int = 2
    seed: int = 0


def save_small_llava(
    text: LoadedModel, folder: Path, tower: Tower | None = None, anyres: bool = False
) -> Path:
    """Write the checkpoint with tokenizer and processor into `folder`, and give it back.

    `anyres`: LLaVA-NeXT's architecture, which looks at several tiles of a picture.
    """
    tower = tower or Tower()
    tokenizer = copy.deepcopy(text.tokenizer)
    tokenizer.add_special_tokens(
        {"extra_special_tokens": [IMAGE_TOKEN]}, replace_extra_special_tokens=False
    )
    model = _model(text, tokenizer, tower, anyres)
    model.save_pretrained(folder)
    _processor(tokenizer, tower, anyres).save_pretrained(folder)
    return folder


def _model(
    text: LoadedModel, tokenizer: PreTrainedTokenizerBase, tower: Tower, anyres: bool
) -> PreTrainedModel:
    vision = CLIPVisionConfig(
        hidden_size=tower.hidden,
        intermediate_size=2 * tower.hidden,
        num_hidden_layers=tower.layers,
        num_attention_heads=4,
        image_size=tower.image,
        patch_size=tower.patch,
    )
    text_config = copy.deepcopy(text.model.config)
    text_config.name_or_path = text.name
    sizes = {
        "vision_config": vision,
        "text_config": text_config,
        "image_token_id": tokenizer.convert_tokens_to_ids(IMAGE_TOKEN),
        "vision_feature_layer": -1,
        "tie_word_embeddings": text_config.tie_word_embeddings,
    }
    side = tower.image
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(tower.seed)
        if anyres:
            pinpoints = [[side, 2 * side], [2 * side, side]]
            config = LlavaNextConfig(**sizes, image_grid_pinpoints=pinpoints)
            model = LlavaNextForConditionalGeneration(config)
        else:
            model = LlavaForConditionalGeneration(LlavaConfig(**sizes))
        model = model.to(text.model.dtype).eval()
        model.model.language_model.load_state_dict(text.model.base_model.state_dict())
        model.lm_head.load_state_dict(text.model.get_output_embeddings().state_dict())
        rows = max(len(tokenizer), text_config.vocab_size)
        model.resize_token_embeddings(rows, mean_resizing=False)
        _scale_projector(model, tower)
    model.generation_config = copy.deepcopy(text.model.generation_config)
    return model


@torch.no_grad()
def _scale_projector(model: PreTrainedModel, tower: Tower) -> None:
    """Features of noise get the root mean square of the embeddings."""
    noise = torch.randn(8, 3, tower.image, tower.image).to(model.dtype)
    seen = model.model.vision_tower(noise).last_hidden_state
    projector = model.model.multi_modal_projector
    wanted = model.get_input_embeddings().weight.square().mean().sqrt()
    projector.linear_2.weight *= wanted / projector(seen).square().mean().sqrt()


def _processor(tokenizer: PreTrainedTokenizerBase, tower: Tower, anyres: bool):
    side = tower.image
    common = {
        "patch_size": tower.patch,
        "vision_feature_select_strategy": "default",
        "num_additional_image_tokens": 1,
        "image_token": IMAGE_TOKEN,
        "chat_template": tokenizer.chat_template,
    }
    sizes = {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}
    if anyres:
        pinpoints = [[side, 2 * side], [2 * side, side]]
        images = LlavaNextImageProcessorPil(**sizes, image_grid_pinpoints=pinpoints)
        return LlavaNextProcessor(images, tokenizer, **common)
    return LlavaProcessor(CLIPImageProcessorPil(**sizes), tokenizer, **common)


SHAPES = ("circle", "rectangle", "triangle")
EXPERTS = ("shapes", "others")
MIXTURE = "shapes + others"


@dataclass(frozen=True)
class PicturePlan:
    """`limit`: held-out rows, drawn by `seed`. `steps`: of each of the two trainings."""

    steps: int = 6
    prompts_per_step: int = 8
    learning_rate: float = 5e-3
    limit: int = 200
    seed: int = 0
    tower: Tower = field(default_factory=Tower)


def prove_pictures(
    text: LoadedModel, plan: PicturePlan, tell: Callable[[dict[str, Any]], None]
) -> dict[str, Any]:
    """Build the model around `text`, train two experts, measure them and their mixture.

    `tell` is called with what is known so far after each part. Raises `T2LocalError` without
    easy-VQA in the folder of `T2LOCAL_DATA`.
    """
    learning, held_out = _rows("train", plan), _rows("test", plan)[: plan.limit]
    found: dict[str, Any] = {
        "model": f"LLaVA around {text.name}, {text.dtype}, random vision tower",
        **origin(str(text.device)),
        "plan": asdict(plan),
        "rows": {"train": len(learning), "held_out": len(held_out)},
        "training": {},
        "measured": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        loaded = drain(load_model(str(save_small_llava(text, Path(folder), plan.tower)), "none"))
    svf = attach(loaded.model, cache_folder=paths.basis_dir() / text.slug)
    base = _score(loaded, svf, {}, held_out)
    _note(found, "base", held_out, base, base)
    tell(found)
    experts: dict[str, Z] = {}
    for name in EXPERTS:
        started = time.perf_counter()
        experts[name], curve = _learnt(loaded, svf, _of_kind(learning, name), plan)
        seconds = round(time.perf_counter() - started, 1)
        found["training"][name] = {"reward_curve": curve, "seconds": seconds}
        tell(found)
    z = compose(experts, Mixture(dict.fromkeys(EXPERTS, 1.0)))
    _note(found, MIXTURE, held_out, base, _score(loaded, svf, z, held_out))
    tell(found)
    shuffled = _with_others_pictures(held_out, plan.seed)
    _note(found, f"{MIXTURE}, shuffled", held_out, base, _score(loaded, svf, z, shuffled))
    tell(found)
    for name in EXPERTS:
        _note(found, name, held_out, base, _score(loaded, svf, experts[name], held_out))
        tell(found)
    return found


def _rows(split: str, plan: PicturePlan) -> list[Example]:
    """easy-VQA's rows in a random order, each with all answers that occur as its choices."""
    path = data_folder() / f"easy_vqa.{split}.jsonl"
    if not path.is_file():
        raise T2LocalError(
            f"'{path.name}' is not in {path.parent}; name its folder in T2LOCAL_DATA."
        )
    rows = list(read_examples(path).examples)
    kinds = sorted({row.answer for row in rows})
    random.Random(plan.seed).shuffle(rows)
    return [
        replace(e, columns={**e.columns, "choices": kinds, "label": kinds.index(e.answer)})
        for e in rows
    ]


def _of_kind(rows: Sequence[Example], expert: str) -> list[Example]:
    return [row for row in rows if (row.answer in SHAPES) == (expert == EXPERTS[0])]


def _with_others_pictures(rows: Sequence[Example], seed: int) -> list[Example]:
    pictures = [row.columns["image"] for row in rows]
    random.Random(seed + 1).shuffle(pictures)
    pairs = zip(rows, pictures, strict=True)
    return [replace(row, columns={**row.columns, "image": picture}) for row, picture in pairs]


def _learnt(
    loaded: LoadedModel, svf: SVFModel, rows: Sequence[Example], plan: PicturePlan
) -> tuple[Z, list[float]]:
    """The `z` after the last step, and the mean reward of each step's batch."""
    config = TrainConfig(
        steps=plan.steps,
        prompts_per_step=plan.prompts_per_step,
        learning_rate=plan.learning_rate,
        validate_every=plan.steps,
        checkpoint_every=plan.steps,
        rows_per_forward=plan.prompts_per_step,
        seed=plan.seed,
    )
    method, flat, curve = SVFMethod(loaded, svf), torch.empty(0), []
    # One row validates, since the loop wants some; its verdict is not used.
    for event in train(loaded, svf, rows[1:], rows[:1], "choice", config, method=method):
        match event:
            case StepReport():
                curve.append(round(event.batch.reward_mean, 4))
            case Checkpoint():
                flat = event.state.flat
    return {name: row.clone() for name, row in method.z(flat.detach()).items()}, curve


def _score(loaded: LoadedModel, svf: SVFModel, z: Z, rows: Sequence[Example]) -> Scored:
    return score_greedy(loaded, holding(loaded, svf, z), rows, "choice", max_new_tokens=1)


def _note(
    found: dict[str, Any], name: str, rows: Sequence[Example], base: Scored, scored: Scored
) -> None:
    """Write down accuracy and reward over all rows and by kind, beside the base model's."""
    parts = {"all": list(range(len(rows)))}
    for expert in EXPERTS:
        parts[expert] = [i for i, row in enumerate(rows) if row in _of_kind([row], expert)]
    found["measured"][name] = {
        part: _compared([base.right[i] for i in places], [scored.right[i] for i in places])
        for part, places in parts.items()
        if places
    } | {"mean_reward": round(scored.mean, 4)}


def _compared(base: Sequence[float], right: Sequence[float]) -> dict[str, Any]:
    difference, low, high = paired_difference(base, right)
    n = len(right)
    return {
        "n": n,
        "accuracy": round(sum(right) / n, 4),
        "ci95": [round(v, 4) for v in wilson(int(sum(right)), n)],
        "minus_base": round(difference, 4),
        "ci95_difference": [round(low, 4), round(high, 4)],
    }
