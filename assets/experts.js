// Cards, chips and the undo bar: a click on [data-act] becomes an event; renaming happens in place.
const EVENTS = ["try_it", "compare", "duplicate", "hand_over", "remove", "restore", "note_prompts", "forgotten", "go_back"];
const rename = (card) => {
  const title = card.querySelector(".expert-name");
  const name = card.dataset.name;
  const field = document.createElement("input");
  field.value = name;
  field.className = "expert-field";
  field.setAttribute("aria-label", `New name of ${name}`);
  title.hidden = true;
  title.after(field);
  field.focus();
  field.select();
  let closed = false;
  const close = (keep) => {
    if (closed) return;
    closed = true;
    const to = field.value.trim();
    field.remove();
    title.hidden = false;
    if (keep && to && to !== name) trigger("rename", { name, to });
  };
  field.addEventListener("keydown", (e) => {
    if (e.key === "Enter") close(true);
    if (e.key === "Escape") close(false);
  });
  field.addEventListener("blur", () => close(true));
};
element.addEventListener("click", (e) => {
  const act = e.target.closest("[data-act]")?.dataset.act;
  const named = e.target.closest("[data-name]");
  if (!act || !named) return;
  if (act === "rename") rename(named);
  else if (act === "dismiss") named.remove();
  else if (EVENTS.includes(act)) trigger(act, { name: named.dataset.name });
});
