// Clicks in the transcript become events: "retry", "edit_message", "carry_on", "answer_with", "write_instead",
// "example", "thumb", "prefer", "rewrite", "version", "earlier", "recipe". Copying and editing in place need no server. The view
// follows the newest text unless the reader scrolled up. Below is the answer at work, an element of its own.
const scroller = element.closest("#transcript");
let following = true;
scroller.addEventListener("scroll", () => {
  following = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
});
const top = () => element.querySelector(".turn")?.dataset.index;
let reading = null; // where the reader is, until earlier messages have come above
new MutationObserver(() => {
  if (reading && reading.top !== top()) {
    scroller.scrollTop = scroller.scrollHeight - reading.fromEnd;
    reading = null;
  } else if (following) scroller.scrollTop = scroller.scrollHeight;
}).observe(scroller, { childList: true, subtree: true, characterData: true });

const copy = async (text, button) => {
  if (navigator.clipboard) await navigator.clipboard.writeText(text);
  else {
    const area = document.body.appendChild(document.createElement("textarea"));
    area.value = text;
    area.select();
    document.execCommand("copy"); // plain http on a local network has no clipboard
    area.remove();
  }
  button.classList.add("done");
  setTimeout(() => button.classList.remove("done"), 1200);
};

// A message is sent again as it was changed; an answer is written over, and the chat goes on with that.
const WORDS = {
  user: ["Edit your message", "Send", "What is there now stays, as a version before."],
  assistant: ["What you wanted", "Keep this", "A row to learn from, in the tab Train. The chat goes on with it."],
};
const edit = (turn) => {
  if (turn.querySelector(".editor")) return;
  const said = turn.querySelector(".said, .spoken");
  const editor = document.createElement("div");
  editor.className = "editor";
  const asked = turn.classList.contains("user");
  const [label, act, told] = WORDS[asked ? "user" : "assistant"];
  editor.innerHTML =
    `<textarea aria-label="${label}"></textarea><div class="editor-acts">` +
    `<button type="button" data-edit="send">${act}</button>` +
    '<button type="button" data-edit="keep">Keep as it was</button>' +
    `<small>${told}</small></div>`;
  const area = editor.querySelector("textarea");
  area.value = turn.dataset.raw;
  const close = () => {
    editor.remove();
    turn.classList.remove("editing");
  };
  const send = () => {
    close();
    following = asked;
    trigger(asked ? "edit_message" : "rewrite", { index: +turn.dataset.index, text: area.value });
  };
  editor.querySelector('[data-edit="send"]').addEventListener("click", send);
  editor.querySelector('[data-edit="keep"]').addEventListener("click", close);
  area.addEventListener("keydown", (e) => {
    if (e.key === "Escape") close();
    if (e.key === "Enter" && !e.shiftKey && (asked || e.ctrlKey || e.metaKey)) {
      e.preventDefault();
      send();
    }
  });
  turn.classList.add("editing");
  said.after(editor);
  area.focus();
};

// What a click on a button means: what is on it, or nothing where that is pressed already.
const meant = (button, name) => (button.getAttribute("aria-pressed") === "true" ? "" : button.dataset[name]);

scroller.addEventListener("click", (e) => {
  const button = e.target.closest("[data-act]");
  if (!button) return;
  const turn = button.closest(".turn");
  const act = button.dataset.act;
  if (act === "copy") copy(turn.dataset.raw, button);
  else if (act === "copy-code") copy(button.closest("pre").querySelector("code").innerText, button);
  else if (act === "edit" || act === "rewrite") edit(turn);
  else if (act === "earlier") {
    following = false;
    reading = { top: top(), fromEnd: scroller.scrollHeight - scroller.scrollTop };
    trigger("earlier", {});
  } else if (act === "take_back") trigger("rewrite", { index: +turn.dataset.index, text: "" });
  else if (act === "version") trigger("version", { index: +turn.dataset.index, step: +button.dataset.step });
  else if (act === "recipe") trigger("recipe", { index: +turn.dataset.index });
  else if (act === "thumb") trigger("thumb", { index: +turn.dataset.index, thumb: meant(button, "thumb") });
  else if (act === "prefer") trigger("prefer", { index: +turn.dataset.index, side: meant(button, "side") });
  else {
    following = true;
    if (act === "answer_with") trigger("answer_with", { name: button.dataset.name });
    else if (act === "example") trigger("example", { text: button.dataset.text });
    else trigger(act, {});
  }
});
