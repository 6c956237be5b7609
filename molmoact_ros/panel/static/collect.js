// Collecting demonstrations, and trials of policies: where the session stands, and the buttons that begin, end and judge an episode.

// What the large button does and reads, and which others can be pressed, by state.
const STATES = {
  waiting: ["begin", "Begin", ["home"]],
  homing: ["cancel", "Cancel", []],
  countdown: ["cancel", "Cancel", []],
  recording: ["end", "End", ["policy"]],
  checking: ["", "Checking …", []],
  review: ["keep", "Keep", ["fail", "discard", "redo"]],
  done: ["", "All kept", ["home"]],
};
// The same of a trial, where it differs.
const TRIAL = {
  recording: ["end", "End", []],
  review: ["score", "Store score", ["discard"]],
};
const SETTLE = 1000; // ms after the large button's meaning has changed in which a click was meant for what it said before
const ECHO = 1000; // ms after a click on the rubric in which the session may still say what was marked before
const OTHERS = [["fail", "Failed"], ["discard", "Discard"], ["redo", "Redo"], ["home", "Home"], ["policy", "Policy on"]];
const NOTED = ["recording", "checking", "review"];

export function build(root, control, tell) {
  const part = (name) => root.querySelector(`#c-${name}`);
  const send = async (command) => {
    const typed = state === "waiting" && !boxes.length ? part("task").value.trim() : "";
    const notes = NOTED.includes(state) ? part("notes").value.trim() : "";
    const done = NOTED.includes(state) ? boxes.map((box) => box.checked) : [];
    const answer = await control.ask({ do: "collect", command, notes, task: typed, done });
    if (!answer.ok) tell(answer);
    else if (notes && command) part("notes").value = "";
  };
  const others = OTHERS.map(([command, label]) => {
    const button = Object.assign(document.createElement("button"), { type: "button", textContent: label, id: `c-${command}` });
    button.onclick = () => send(command);
    part("buttons").append(button);
    return [command, button];
  });
  part("next").onclick = () => part("next").dataset.does && send(part("next").dataset.does);
  let task = ""; // of the session, as it was heard last
  let state = "";
  let means = { does: "", since: 0 };
  let boxes = []; // of a trial's rubric
  let rubric = "";
  let marked = -ECHO; // when a box was clicked

  const showRubric = (news) => {
    if (rubric !== news.rubric.join("\n")) {
      rubric = news.rubric.join("\n");
      boxes = news.rubric.map(() => Object.assign(document.createElement("input"), { type: "checkbox" }));
      for (const box of boxes) box.onchange = () => { marked = performance.now(); send(""); };
      part("rubric").replaceChildren(...boxes.map((box, k) => {
        const label = document.createElement("label");
        label.append(box, news.rubric[k]);
        return label;
      }));
    }
    for (const [k, box] of boxes.entries()) {
      box.disabled = !NOTED.includes(news.state);
      if (performance.now() - marked > ECHO) box.checked = news.done[k] ?? false;
    }
  };

  return (news) => {
    root.hidden = !news;
    if (!news) return;
    state = news.state;
    showRubric(news);
    const trial = boxes.length > 0;
    const [does, label, allowed] = (trial ? TRIAL[news.state] : null) ?? STATES[news.state] ?? ["", news.state, []];
    if (does !== means.does) means = { does, since: performance.now() };
    part("next").dataset.does = does;
    part("next").textContent = label;
    part("next").disabled = !does || performance.now() - means.since < SETTLE;
    for (const [command, button] of others) button.hidden = !allowed.includes(command);
    const seconds = news.state === "countdown" ? news.left : news.elapsed;
    part("title").textContent = trial ? `Trial ${news.kept + 1}` : "Collect";
    part("scene").textContent = news.scene;
    part("state").textContent = seconds ? `${news.state} ${seconds.toFixed(0)} s` : news.state;
    part("line").textContent = news.message;
    part("kept").textContent = `${news.kept} / ${news.wanted}`;
    part("kept-name").textContent = trial ? "scored" : "kept";
    part("failed").textContent = news.failed;
    part("failed").parentElement.hidden = trial;
    part("discarded").textContent = news.discarded;
    part("interventions").textContent = news.interventions;
    part("problems").replaceChildren(
      ...news.problems.map((line) => Object.assign(document.createElement("li"), { textContent: line })),
    );
    part("task").disabled = trial || news.state !== "waiting";
    if (news.task !== task || news.state !== "waiting") part("task").value = task = news.task;
  };
}
