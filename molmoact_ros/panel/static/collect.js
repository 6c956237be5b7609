// Collecting demonstrations: where the session stands, and the buttons that begin, end and judge an episode.

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
const SETTLE = 1000; // ms after the large button's meaning has changed in which a click was meant for what it said before
const OTHERS = [["fail", "Failed"], ["discard", "Discard"], ["redo", "Redo"], ["home", "Home"], ["policy", "Policy on"]];

export function build(root, control, tell) {
  const part = (name) => root.querySelector(`#c-${name}`);
  const send = async (command) => {
    const typed = state === "waiting" ? part("task").value.trim() : "";
    const notes = ["recording", "review"].includes(state) ? part("notes").value.trim() : "";
    const answer = await control.ask({ do: "collect", command, notes, task: typed });
    if (!answer.ok) tell(answer);
    else if (notes) part("notes").value = "";
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

  return (news) => {
    root.hidden = !news;
    if (!news) return;
    state = news.state;
    const [does, label, allowed] = STATES[news.state] ?? ["", news.state, []];
    if (does !== means.does) means = { does, since: performance.now() };
    part("next").dataset.does = does;
    part("next").textContent = label;
    part("next").disabled = !does || performance.now() - means.since < SETTLE;
    for (const [command, button] of others) button.hidden = !allowed.includes(command);
    const seconds = news.state === "countdown" ? news.left : news.elapsed;
    part("state").textContent = seconds ? `${news.state} ${seconds.toFixed(0)} s` : news.state;
    part("line").textContent = news.message;
    part("kept").textContent = `${news.kept} / ${news.wanted}`;
    part("failed").textContent = news.failed;
    part("discarded").textContent = news.discarded;
    part("interventions").textContent = news.interventions;
    part("problems").replaceChildren(
      ...news.problems.map((line) => Object.assign(document.createElement("li"), { textContent: line })),
    );
    part("task").disabled = news.state !== "waiting";
    if (news.task !== task || news.state !== "waiting") part("task").value = task = news.task;
  };
}
