// The list of chats: "pick", "visit", "rename", "remove", "undo" and "more" events, each with how many rows are
// to stay in it and what is searched; renaming happens in place, removing asks where rows would go too.
const shown = () => element.querySelectorAll(".chat-row").length;
const query = () => document.querySelector("#chat-search input, #chat-search textarea")?.value ?? "";
const tell = (event, about) => trigger(event, { shown: shown(), query: query(), ...about });
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
    if (keep && text && text !== title.textContent) tell("rename", { id: row.dataset.id, title: text });
  };
  field.addEventListener("keydown", (e) => {
    if (e.key === "Enter") close(true);
    if (e.key === "Escape") close(false);
  });
  field.addEventListener("blur", () => close(true));
};
addEventListener("popstate", () => { // the browser's back and forth
  const id = new URLSearchParams(location.search).get("chat");
  if (id) tell("visit", { id });
});
element.addEventListener("click", (e) => {
  const row = e.target.closest(".chat-row");
  const button = e.target.closest("[data-act]");
  const act = button?.dataset.act;
  if (act === "more") tell("more", { shown: Number(button.dataset.shown) });
  if (act === "undo") tell("undo", { id: button.closest("[data-id]").dataset.id });
  if (!row || !act) return;
  if (act === "pick") {
    document.body.classList.remove("show-chats");
    tell("pick", { id: row.dataset.id });
  } else if (act === "rename") rename(row);
  else if (act === "ask") row.classList.add("asking");
  else if (act === "keep") row.classList.remove("asking");
  else if (act === "remove") {
    row.classList.remove("asking");
    tell("remove", { id: row.dataset.id, rows: button.dataset.rows ?? "keep" });
  }
});
