// A click on a job's button becomes an event with the job's id.
element.addEventListener("click", (e) => {
  const act = e.target.closest("[data-act]")?.dataset.act;
  const id = e.target.closest("[data-job]")?.dataset.job;
  if (id && (act === "stop" || act === "resume")) trigger(act, { id });
});
