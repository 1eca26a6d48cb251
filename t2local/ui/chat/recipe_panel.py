"""The panel of recipes below the wheel: laid out here, and what it does.

A recipe that is opened, be it a preset, a file, a link or an answer's own, sets the wheel and
nothing else; nobody is asked anything by it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from t2local.engine.engine import Engine
from t2local.engine.recipes import (
    LONGEST_LINK,
    Recipe,
    chat_of,
    file_name,
    link_code,
    mixable,
    read_recipe,
    recipe_bytes,
    recipe_from_link,
    recipe_of_answer,
    titled,
)
from t2local.errors import T2LocalError
from t2local.ui.chat.wheel import Wheel
from t2local.ui.forms import LOOKS
from t2local.ui.messages import as_text, sent, shown
from t2local.ui.style import PAGE, SAVE_IT

MOST_DAMAGED = 3  # that are told one by one
QUIET = {"show_progress": "hidden"}
# In the browser: what the page's address brings; the link itself, copied as far as one may.
BROUGHT = """() => new URLSearchParams(location.search).get("recipe") ?? "" """
COPY_IT = """async (code) => {
    if (!code) return "";
    const link = `${location.origin}${location.pathname}?recipe=${code}`;
    try {
        await navigator.clipboard.writeText(link);
    } catch { // plain http on a local network has no clipboard: the box below has the link
    }
    return link;
}"""
SHOW_IT = """() => setTimeout( // once it is open
    () => document.querySelector("#recipe")?.scrollIntoView({ block: "end" }), 250)"""


@dataclass(frozen=True)
class RecipePanel:
    """`code`: unseen, what follows `recipe=` in a link that is made; `arrived`: in the address.

    `download`: unseen, the path of the file to hand over. `gone`: the id of what was deleted last.
    """

    accordion: gr.Accordion
    told: gr.HTML
    presets: gr.Dropdown
    load: gr.Button
    name: gr.Textbox
    save: gr.Button
    rename: gr.Button
    delete: gr.Button
    undo: gr.Button
    gone: gr.State
    with_message: gr.Checkbox
    file: gr.Button
    link: gr.Button
    bring: gr.UploadButton
    made_link: gr.Textbox
    code: gr.Textbox
    download: gr.Textbox
    arrived: gr.Textbox


def create_recipe_panel() -> RecipePanel:
    small = {"size": "sm", "min_width": 0}
    with gr.Accordion("recipe", open=False, elem_id="recipe") as accordion:
        told = gr.HTML(told_html(()), apply_default_css=False, js_on_load=None)
        with gr.Row(elem_classes="recipe-row"):
            presets = gr.Dropdown(
                [], label="presets", show_label=False, container=False, elem_id="presets",
                min_width=0, scale=3,
            )  # fmt: skip
            load = gr.Button("Load", elem_id="recipe-load", **small)
        with gr.Row(elem_classes="recipe-row"):
            name = gr.Textbox(
                label="name of the recipe", show_label=False, container=False, max_lines=1,
                placeholder="a name", elem_id="recipe-name", min_width=0, scale=3,
            )  # fmt: skip
            save = gr.Button("Save as", elem_id="recipe-save", **small)
        with gr.Row(elem_classes="recipe-row"):
            rename = gr.Button("Rename the preset", elem_id="recipe-rename", **small)
            delete = gr.Button("Delete it", elem_id="recipe-delete", **small)
            undo = gr.Button("Undo", visible=False, elem_id="recipe-undo", **small)
        with_message = gr.Checkbox(
            False, label="with the message", container=False, elem_id="recipe-with-message"
        )
        with gr.Row(elem_classes="recipe-row"):
            link = gr.Button("Copy link", elem_id="recipe-link", **small)
            file = gr.Button("Save file", elem_id="recipe-file", **small)
        made_link = gr.Textbox(
            label="link", show_label=False, container=False, visible=False, interactive=False,
            max_lines=1, elem_id="recipe-made-link",
        )  # fmt: skip
        bring = gr.UploadButton(
            "Open file", file_types=[".json"], elem_id="recipe-bring", size="sm"
        )
    hidden = [gr.Textbox(visible=False) for _ in range(3)]
    return RecipePanel(
        accordion, told, presets, load, name, save, rename, delete, undo, gr.State(""),
        with_message, file, link, bring, made_link, *hidden,
    )  # fmt: skip


def told_html(damaged: tuple[str, ...] | list[str]) -> str:
    """What a recipe is, and which files of them cannot be read."""
    more = len(damaged) - MOST_DAMAGED
    return PAGE.render("wheel.html", "recipe_note", damaged=damaged[:MOST_DAMAGED], more=more)


def handed_over(recipe: Recipe, cache: str) -> str:
    """Its file in a folder from which the page may serve files."""
    folder = Path(cache) / "recipes"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / file_name(recipe)
    path.write_bytes(recipe_bytes(recipe))
    return str(path)


def presets_update(engine: Engine, chosen: str | None = None) -> dict[str, Any]:
    """The presets there are. `chosen`: the id of the one to stand there."""
    found = engine.recipes.list()
    chosen = chosen if chosen in [preset.id for preset in found] else None
    return gr.update(choices=[(preset.title, preset.id) for preset in found], value=chosen)


class RecipeEvents:
    """Binds a `RecipePanel`. `message`: the chat's box; `chat_id`: of the one shown."""

    def __init__(
        self, engine: Engine, panel: RecipePanel, wheel: Wheel, message: Any, chat_id: gr.State
    ) -> None:
        self.engine, self.panel, self.wheel = engine, panel, wheel
        self.message, self.chat_id = message, chat_id
        self.settings = {message, chat_id, panel.name, panel.with_message, *wheel.inputs}
        self.opened = [*wheel.inputs, message, panel.name, panel.accordion, panel.made_link]

    def bind(self, transcript: gr.HTML) -> list[Any]:
        """Gives the events after which the wheel is another one."""
        panel = self.panel
        listed = [panel.presets, panel.told, panel.undo, panel.gone]
        panel.accordion.expand(shown(self.presets_listed), {panel.presets}, listed, **QUIET)
        panel.save.click(shown(self.recipe_saved), self.settings, [*listed, panel.name], **QUIET)
        chosen = {panel.presets, panel.name}
        panel.rename.click(shown(self.preset_renamed), chosen, [*listed, panel.name], **QUIET)
        panel.delete.click(shown(self.preset_deleted), {panel.presets}, listed, **QUIET)
        panel.undo.click(shown(self.preset_restored), {panel.gone}, listed, **QUIET)
        saving = panel.file.click(shown(self.recipe_file), self.settings, panel.download, **QUIET)
        saving.success(None, panel.download, None, js=SAVE_IT)
        made = [panel.code, panel.made_link, panel.download]
        linking = panel.link.click(shown(self.recipe_link), self.settings, made, **QUIET)
        linking.success(None, panel.code, panel.made_link, js=COPY_IT)
        linking.success(None, panel.download, None, js=f"(path) => path && ({SAVE_IT})(path)")
        own = transcript.recipe(
            shown(self.answers_recipe), {self.chat_id, panel.with_message}, self.opened, **QUIET
        )
        own.success(None, None, None, js=SHOW_IT)
        return [
            panel.load.click(shown(self.preset_loaded), {panel.presets}, self.opened, **QUIET),
            panel.bring.upload(shown(self.recipe_brought), {panel.bring}, self.opened, **QUIET),
            own,
        ]

    def bind_link(self, page: gr.Blocks, loaded: gr.State) -> None:
        """`loaded`: changes when a model is there. A link's recipe waits for the first one."""
        arrived = self.panel.arrived
        page.load(None, None, arrived, js=BROUGHT)
        outputs = [arrived, *self.opened]
        loaded.change(shown(self.recipe_linked), {arrived}, outputs, **QUIET)

    # presets -------------------------------------------------------------------------------

    def presets_listed(self, values: dict) -> dict:
        return self._listed(values[self.panel.presets])

    def recipe_saved(self, values: dict) -> dict:
        preset = self.engine.recipes.save(self._made(values))
        gr.Info(as_text(f"The recipe is kept as '{preset.title}'."))
        return {**self._listed(preset.id), self.panel.name: preset.title}

    def preset_renamed(self, values: dict) -> dict:
        preset = self.engine.recipes.rename(self._chosen(values), values[self.panel.name] or "")
        return {**self._listed(preset.id), self.panel.name: preset.title}

    def preset_deleted(self, values: dict) -> dict:
        """It can be brought back."""
        id = self._chosen(values)
        self.engine.recipes.delete(id)
        panel = self.panel
        return {**self._listed(None), panel.undo: gr.Button(visible=True), panel.gone: id}

    def preset_restored(self, values: dict) -> dict:
        return self._listed(self.engine.recipes.restore(values[self.panel.gone] or "").id)

    def _chosen(self, values: dict) -> str:
        id = values[self.panel.presets]
        if not id:
            raise T2LocalError("No preset is chosen; choose one from the list, or save one first.")
        return str(id)

    def _listed(self, chosen: str | None) -> dict:
        panel = self.panel
        return {
            panel.presets: presets_update(self.engine, chosen),
            panel.told: told_html(list(self.engine.recipes.damaged.values())),
            panel.undo: gr.Button(visible=False),
            panel.gone: "",
        }

    # making one ----------------------------------------------------------------------------

    def recipe_file(self, values: dict) -> str:
        return handed_over(self._made(values), self.panel.download.GRADIO_CACHE)

    def recipe_link(self, values: dict) -> dict:
        """The link where it is short, else the file."""
        panel, recipe = self.panel, self._made(values)
        code, path = link_code(recipe), ""
        if code:
            gr.Info("The link is copied, and stands in the panel.")
        else:
            path = handed_over(recipe, panel.download.GRADIO_CACHE)
            gr.Info(
                f"This recipe is too long for a link (at most {LONGEST_LINK:,} characters): here "
                "is its file."
            )
        return {
            panel.code: code,
            panel.made_link: gr.Textbox(visible=bool(code)),
            panel.download: path,
        }

    def _made(self, values: dict) -> Recipe:
        """What the wheel says, under the name in the box."""
        wheel = self.wheel
        return Recipe(
            title=titled(values[self.panel.name] or ""),
            model=self.engine.status.model_name,
            controls=self.engine.settled(wheel.controls(values)),
            sampling=wheel.sampling.read(values),
            system_prompt=(values[wheel.system_prompt] or "").strip(),
            prompt=self._message(values) if values[self.panel.with_message] else "",
        )

    def _message(self, values: dict) -> str:
        """What is being written, else what was asked last."""
        draft = ((values[self.message] or {}).get("text") or "").strip()
        chat = self.engine.chats.load_or_new(values[self.chat_id])
        asked = [message.content for message in chat.messages if message.role == "user"]
        return draft or (asked[-1] if asked else "")

    # opening one ---------------------------------------------------------------------------

    def preset_loaded(self, values: dict) -> dict:
        return self._open(self.engine.recipes.load(self._chosen(values)))

    def recipe_brought(self, values: dict) -> dict:
        if not values[self.panel.bring]:
            raise T2LocalError("No file was given; choose a recipe's file.")
        return self._open(read_recipe(Path(values[self.panel.bring])))

    def recipe_linked(self, values: dict) -> dict:
        """Of the page's address; once, also where it cannot be read."""
        code, done = values[self.panel.arrived], {self.panel.arrived: ""}
        if not code or not self.engine.status.ready:
            return {self.panel.arrived: gr.skip()}
        try:
            return {**self._open(recipe_from_link(f"recipe={code}")), **done}
        except T2LocalError as error:
            gr.Warning(as_text(error), title="Recipe")
            return done

    def answers_recipe(self, values: dict, event: gr.EventData) -> dict:
        chat = self.engine.chats.load_or_new(values[self.chat_id])
        model, with_prompt = self.engine.status.model_name, bool(values[self.panel.with_message])
        return self._open(recipe_of_answer(chat, sent(event, "index", int), model, with_prompt))

    def _open(self, recipe: Recipe) -> dict:
        """Everything that a recipe sets. What cannot be as it says is told, the rest is set."""
        status, strategies = self.engine.status, self.engine.strategies()
        if not status.ready:
            raise T2LocalError("The model is being loaded; open the recipe when it is there.")
        names = mixable(self.engine.experts())
        remarks = recipe.remarks(names, strategies, status.model_name)
        known = recipe.without(recipe.missing(names)).with_strategy(strategies)
        update = self.wheel.show_chat(self.engine, chat_of(known))
        if beyond := self._beyond(known, update):
            remarks.append(f"Set as far as the sliders go: {', '.join(beyond)}.")
        if recipe.prompt:
            update[self.message] = {"text": recipe.prompt, "files": []}
        update |= {
            self.panel.name: recipe.title,
            self.panel.accordion: gr.Accordion(open=True),
            self.panel.made_link: gr.Textbox(visible=False),  # it was another's
        }
        name = f"The recipe '{recipe.title}'" if recipe.title else "The recipe"
        prompted = " It brings a system prompt." if recipe.system_prompt else ""
        gr.Info(as_text(f"{name} is on the wheel.{prompted}"))
        if remarks:
            gr.Warning(as_text(" ".join(remarks)), title="Recipe", duration=20)
        return update

    def _beyond(self, recipe: Recipe, update: dict) -> list[str]:
        """The names of what stands elsewhere than the recipe says."""
        wheel, mixture = self.wheel, recipe.controls.mixture
        found = ["strength"] if update[wheel.strength] != mixture.strength else []
        for form, value in ((wheel.gains, mixture.gains), (wheel.sampling, recipe.sampling)):
            for name, part in form.components.items():
                if update[part] != getattr(value, name):
                    found.append(LOOKS[name].label)
        return found
