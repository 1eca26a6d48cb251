// The list of chats: "pick", "rename", "remove" and "more" events, each with how many rows are to stay
// in it; renaming happens in place, removing asks.
const shown = () => element.querySelectorAll(".chat-row").length;
const rename = (row) => {
  const title = row.querySelector(".chat-title");
  const field = document.createElement("input");
  field.value = title.textContent;
  field.setAttribute("aria-label", "New title");
  row.classList.add("renaming");
  row.prepend(field);
  field.focus();
  field.select();
  let closed = false;
  const close = (keep) => {
    if (closed) return;
    closed = true;
    row.classList.remove("renaming");
    const text = field.value.trim();
    field.remove();
    if (keep && text && text !== title.textContent) trigger("rename", { id: row.dataset.id, title: text, shown: shown() });
  };
  field.addEventListener("keydown", (e) => {
    if (e.key === "Enter") close(true);
    if (e.key === "Escape") close(false);
  });
  field.addEventListener("blur", () => close(true));
};
element.addEventListener("click", (e) => {
  const row = e.target.closest(".chat-row");
  const button = e.target.closest("[data-act]");
  const act = button?.dataset.act;
  if (act === "more") trigger("more", { shown: Number(button.dataset.shown) });
  if (!row || !act) return;
  if (act === "pick") {
    document.body.classList.remove("show-chats");
    trigger("pick", { id: row.dataset.id, shown: shown() });
  } else if (act === "rename") rename(row);
  else if (act === "ask") row.classList.add("asking");
  else if (act === "keep") row.classList.remove("asking");
  else if (act === "remove") {
    row.classList.remove("asking");
    trigger("remove", { id: row.dataset.id, rows: button.dataset.rows ?? "keep", shown: shown() });
  }
});
