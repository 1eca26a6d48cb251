"""The prompts that are kept, below the list of chats: laid out here, and what they do.

A prompt that is chosen shows a field for each of its variables, and goes into the message box; it
is sent by whoever reads it there. `assets/prompts.js` makes the fields' button an event.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from t2local.engine.engine import Engine
from t2local.engine.prompts import SavedPrompt, prompts_bytes, read_prompts
from t2local.errors import T2LocalError
from t2local.ui.messages import as_text, sent, shown
from t2local.ui.style import FOLDER, PAGE, SAVE_IT, asset

FILE_NAME = "prompts.json"
QUIET = {"show_progress": "hidden"}


@dataclass(frozen=True)
class PromptLibrary:
    """`download`: unseen, the path of the file to hand over. `gone`: what *Undo* brings back."""

    accordion: gr.Accordion
    chosen: gr.Dropdown
    fields: gr.HTML
    name: gr.Textbox
    save: gr.Button
    edit: gr.Button
    delete: gr.Button
    undo: gr.Button
    gone: gr.State
    examples: gr.Button
    export: gr.Button
    bring: gr.UploadButton
    download: gr.Textbox


def create_prompt_library() -> PromptLibrary:
    small = {"size": "sm", "min_width": 0}
    with gr.Accordion("prompts", open=False, elem_id="prompts") as accordion:
        chosen = gr.Dropdown(
            [], label="prompt", show_label=False, container=False, elem_id="prompt-chosen",
        )  # fmt: skip
        fields = gr.HTML(
            fields_html(None), js_on_load=asset("prompts.js"), apply_default_css=False,
            elem_id="prompt-fields",
        )  # fmt: skip
        with gr.Row(elem_classes="recipe-row"):
            edit = gr.Button("Edit", elem_id="prompt-edit", **small)
            delete = gr.Button("Delete", elem_id="prompt-delete", **small)
            undo = gr.Button("Undo", visible=False, elem_id="prompt-undo", **small)
        name = gr.Textbox(
            label="name of the prompt", show_label=False, container=False, max_lines=1,
            placeholder="a name", elem_id="prompt-name",
        )  # fmt: skip
        save = gr.Button("Save the message as this", elem_id="prompt-save", **small)
        examples = gr.Button("Add examples", visible=False, elem_id="prompt-examples", **small)
        export = gr.Button("Export", elem_id="prompt-export", **small)
        bring = gr.UploadButton("Import", file_types=[".json"], elem_id="prompt-import", **small)
        download = gr.Textbox(visible=False)
    return PromptLibrary(
        accordion, chosen, fields, name, save, edit, delete, undo, gr.State(None), examples, export,
        bring, download,
    )  # fmt: skip


def fields_html(prompt: SavedPrompt | None) -> str:
    """A field for each variable, and the button that puts the prompt into the box."""
    names = prompt.variables if prompt else ()
    return PAGE.render("prompts.html", "fields", known=prompt is not None, names=names)


class PromptEvents:
    """Binds a `PromptLibrary`. `message`: the chat's box."""

    def __init__(self, engine: Engine, library: PromptLibrary, message: gr.MultimodalTextbox):
        self.engine, self.library, self.message = engine, library, message

    def bind(self) -> None:
        part = self.library
        listed = [part.chosen, part.fields, part.examples, part.undo, part.gone]
        part.accordion.expand(shown(self.prompts_listed), {part.chosen}, listed, **QUIET)
        part.chosen.input(shown(self.prompt_chosen), {part.chosen}, part.fields, **QUIET)
        written = [self.message, part.name]
        asked = {part.chosen, self.message}
        part.fields.fill(shown(self.prompt_filled), asked, self.message, **QUIET)
        part.edit.click(shown(self.prompt_edited), asked, written, **QUIET)
        naming = {part.name, self.message}
        part.save.click(shown(self.prompt_saved), naming, listed, **QUIET)
        part.delete.click(shown(self.prompt_deleted), {part.chosen}, listed, **QUIET)
        part.undo.click(shown(self.prompt_brought_back), {part.gone}, listed, **QUIET)
        part.examples.click(shown(self.examples_added), None, listed, **QUIET)
        part.bring.upload(shown(self.prompts_brought), {part.bring, part.chosen}, listed, **QUIET)
        exporting = part.export.click(shown(self.prompts_exported), None, part.download, **QUIET)
        exporting.success(None, part.download, None, js=SAVE_IT)

    # using one -----------------------------------------------------------------------------

    def prompts_listed(self, values: dict) -> dict:
        return self._listed(values[self.library.chosen])

    def prompt_chosen(self, values: dict) -> str:
        return fields_html(self._chosen(values))

    def prompt_filled(self, values: dict, event: gr.EventData) -> dict:
        """Into the message box, with what is attached there."""
        given = sent(event, "values", dict[str, str])
        return self._in_box(values, self._chosen(values).filled(given))

    def prompt_edited(self, values: dict) -> dict:
        """As it was written, to be saved again."""
        prompt = self._chosen(values)
        box = self._in_box(values, prompt.text)
        return {self.message: box, self.library.name: prompt.name}

    def _in_box(self, values: dict, text: str) -> dict:
        return {"text": text, "files": list((values[self.message] or {}).get("files") or ())}

    def _chosen(self, values: dict) -> SavedPrompt:
        name = values[self.library.chosen]
        if not name:
            raise T2LocalError("No prompt is chosen; choose one from the list, or save one first.")
        return self.engine.prompts.find(str(name))

    # keeping them --------------------------------------------------------------------------

    def prompt_saved(self, values: dict) -> dict:
        """The message as it stands in the box; one of the same name can be brought back."""
        text = ((values[self.message] or {}).get("text") or "").strip()
        prompt = SavedPrompt(" ".join((values[self.library.name] or "").split()), text)
        before = self.engine.prompts.keep(prompt)
        gr.Info(as_text(f"The prompt is kept as '{prompt.name}'."))
        return self._listed(prompt.name, before if before != prompt else None)

    def prompt_deleted(self, values: dict) -> dict:
        gone = self.engine.prompts.delete(self._chosen(values).name)
        return self._listed(None, gone)

    def prompt_brought_back(self, values: dict) -> dict:
        gone = values[self.library.gone]
        if not isinstance(gone, SavedPrompt):
            raise T2LocalError("There is nothing to bring back; choose a prompt from the list.")
        self.engine.prompts.keep(gone)
        return self._listed(gone.name)

    def examples_added(self) -> dict:
        self.engine.prompts.take_in(read_prompts(FOLDER / FILE_NAME))
        return self._listed(None)

    def prompts_brought(self, values: dict) -> dict:
        if not values[self.library.bring]:
            raise T2LocalError("No file was given; choose a file of prompts.")
        added = self.engine.prompts.take_in(read_prompts(Path(values[self.library.bring])))
        gr.Info(f"{added} prompt{'s' * (added != 1)} came in.")
        return self._listed(values[self.library.chosen])

    def prompts_exported(self) -> str:
        """A file in the folder from which the page may serve files."""
        prompts = self.engine.prompts.list()
        if not prompts:
            raise T2LocalError("No prompt is kept yet; save one, or add the examples.")
        folder = Path(self.library.download.GRADIO_CACHE) / "prompts"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / FILE_NAME
        path.write_bytes(prompts_bytes(prompts))
        return str(path)

    def _listed(self, chosen: Any, gone: SavedPrompt | None = None) -> Mapping[Any, Any]:
        part, prompts = self.library, {kept.name: kept for kept in self.engine.prompts.list()}
        prompt = prompts.get(chosen) if isinstance(chosen, str) else None
        return {
            part.chosen: gr.Dropdown(choices=list(prompts), value=prompt and prompt.name),
            part.fields: fields_html(prompt),
            part.examples: gr.Button(visible=not prompts),
            part.undo: gr.Button(visible=gone is not None),
            part.gone: gone,
        }
