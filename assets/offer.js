// The buttons beside the offer of a better model: "fetch_model", "stop_fetching", "switch_model".
element.addEventListener("click", (e) => {
  const act = e.target.closest("[data-act]")?.dataset.act;
  if (["fetch_model", "stop_fetching", "switch_model"].includes(act)) trigger(act, {});
});
