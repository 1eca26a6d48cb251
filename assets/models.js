// Cards of models: a click anywhere but on a link chooses one; the hint about experts leads to Train.
const ACTS = ["train"];
element.addEventListener("click", (e) => {
  if (e.target.closest("a, .term")) return;
  const act = e.target.closest("[data-act]")?.dataset.act;
  if (ACTS.includes(act)) return trigger(act, {});
  const source = e.target.closest("[data-source]")?.dataset.source;
  if (source) trigger("choose", { source });
});
