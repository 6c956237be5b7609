// The panel: what the robot says goes onto the page, what a person does goes to the robot.

import * as charts from "./charts.js";
import { build as buildCollect } from "./collect.js";
import { Control, Pictures } from "./connection.js";
import { build } from "./jog.js";
import { Stage } from "./stage.js";
import { choose, theme } from "./theme.js";

const $ = (id) => document.getElementById(id);
const LOOK = 500; // ms for which a plan must have been on the screen before a click can mean it
const SETTLE = 1000; // ms after the button's meaning has changed in which a click was meant for what it said before
const NOT_STOPPED = 1000; // ms after which a stop should have been confirmed
const KEPT = 30; // instructions in the history
const OFFERED = 8;
let about = { arms: [""], suggestions: [], views: [] };
let state = {};
let view = "front";
let arm = 0;
let frames = 0;
let wanted = 0; // a stop that was pressed and not confirmed
let sent = { points: null, count: 0 }; // the drawing that was taken up, and how many traces had been told then
let ended = 0; // the last goal that has
let busy = false; // there was an instruction when it was last heard of
let letGo = () => {};
let showCollect = () => {};

const control = new Control(hear, (open) => {
  document.body.classList.toggle("offline", !open);
  if (!open) {
    letGo();
    show({});
  }
});
const stage = new Stage($("picture"), $("lines"), draw, () => traceLine());
const pictures = new Pictures(async (number, bitmap, stamp) => {
  if (about.views[number]?.name !== view) return;
  await stage.show(bitmap, stamp, about.views[number].drawable);
  frames++;
  $("stage").dataset.frames = frames;
  $("stage").classList.add("seen");
  seen = performance.now();
}, (message) => blind(message));

// What comes in

function hear(message) {
  if (message.about) begin(message.about);
  else if (message.state) show(message.state);
  else if (message.refused) tell(message.refused);
}

function begin(told) {
  about = told;
  choices($("views"), about.views.map((v) => [v.name, v.label]), view, (name) => {
    view = name;
    $("stage").classList.remove("seen");
    blind("waiting for an image");
    pictures.look(view);
  });
  $("arms").hidden = about.arms.length < 2;
  choices($("arms"), about.arms.map((a, k) => [String(k), a.replace("_", "") || "arm"]), String(arm), (k) => {
    letGo();
    arm = Number(k);
  });
  pictures.look(view);
  offer();
}

function show(news) {
  state = news;
  const safety = state.safety?.state ?? "none";
  document.body.dataset.safety = safety;
  text("state", state.safety ? safety : control.open ? "no controller" : "not connected");
  text("reason", [state.safety?.reason, ...(state.safety?.warnings ?? [])].filter(Boolean).join(" · "));
  resume(safety);
  $("hold").disabled = ["hold", "stopped", "idle", "none"].includes(safety); // in a state that is not known here it may be needed
  if (safety === "stopped") {
    wanted = 0;
    warn("");
  }
  gate();
  plan();
  engine();
  limits();
  trace();
  showCollect(state.collect);
  if (state.ended?.goal > ended) {
    ended = state.ended.goal;
    tell({ ok: true, message: `Ended: ${state.ended.message}` });
  }
}

function plan() {
  const { chunk, safety, engine: said } = state;
  text("plan-number", chunk ? `${chunk.plan}` : "");
  text("doing", said?.instruction ? `“${said.instruction}”` : "No instruction.");
  $("end").disabled = !said?.instruction;
  const key = chunk ? JSON.stringify(chunk) : "";
  if ($("chunk").dataset.key !== key) {
    $("chunk").dataset.key = key;
    charts.chunk($("chunk"), chunk?.actions ?? []);
    if (chunk && !chunk.actions.length) $("chunk").textContent = `Not drawn: action space ${chunk.space}`;
  }
  charts.progress($("chunk"), safety && chunk && safety.plan === chunk.plan ? safety.progress : 0);
}

function engine() {
  const said = state.engine;
  const milliseconds = (s) => (s === null || s === undefined ? "–" : `${Math.round(1000 * s)} ms`);
  text("engine-state", said?.state ?? "no policy");
  text("f-step", said?.plan ? milliseconds(said.step) : "–");
  text("f-latency", milliseconds(state.safety?.latency));
  text("f-passes", said?.plan ? `${said.passes} / ${said.tokens}` : "–");
  text("f-mode", said?.mode ?? "");
  const key = JSON.stringify(said?.stages ?? []);
  if ($("stages").dataset.key !== key) {
    $("stages").dataset.key = key;
    charts.stages($("stages"), $("stage-names"), said?.stages ?? []);
  }
  text("engine-message", said?.message ?? "");
}

function limits() {
  const bit = Object.entries(state.safety?.limits ?? {}).filter(([, count]) => count);
  const key = JSON.stringify(bit);
  if ($("limits").dataset.key === key) return;
  $("limits").dataset.key = key;
  $("limits").replaceChildren(
    ...(bit.length ? bit : [["none so far", ""]]).map(([name, count]) => {
      const item = document.createElement("li");
      item.append(name.replaceAll("_", " "), Object.assign(document.createElement("b"), { textContent: count }));
      return item;
    }),
  );
}

// Approval

let looked = { plan: 0, before: 0, since: 0 }; // the plan on the screen, the one that was there before it, and since when

function gate() {
  const waits = state.engine?.pending ?? 0;
  if (waits !== looked.plan) looked = { plan: waits, before: looked.plan, since: performance.now() };
  $("gate").hidden = !waits;
  if (!waits) return;
  const left = state.engine.left;
  text("gate-plan", `Plan ${waits} waits for approval`);
  text("gate-left", left !== null && left >= 0 ? `released in ${left.toFixed(1)} s` : "until you say so");
}
$("approve").onclick = async () => {
  const changed = looked.before && performance.now() - looked.since < LOOK;
  const answer = await control.ask({ do: "approve", plan: changed ? looked.before : looked.plan });
  tell(answer.ok ? answer : { ok: false, message: `Not approved: ${answer.message}` });
};
$("veto").onclick = () => press("veto");

// Traces

function trace() {
  const followed = state.engine?.instruction ? state.trace : null;
  const ended = state.engine && busy && !state.engine.instruction;
  if (state.engine) busy = Boolean(state.engine.instruction);
  if (taken() && (ended || (state.trace?.person && state.trace.count > sent.count))) {
    stage.forget(); // from now on the policy says what is left of it
  }
  stage.follow(followed?.points.length ? { points: followed.points, person: followed.person, source: followed.source } : null);
  traceLine();
}

function taken() {
  return stage.mine && stage.mine === sent.points;
}

async function draw(points, stamp) {
  if (!state.engine?.instruction) {
    refusal = "";
    return traceLine(); // it goes with the next instruction
  }
  const count = state.trace?.count ?? 0;
  const answer = await control.ask({ do: "draw", stroke: stroke(points, stamp) });
  if (answer.ok) sent = { points, count };
  refusal = answer.ok ? "" : answer.message;
  traceLine();
}

function stroke(points, stamp) {
  return { points, sec: stamp[0], nanosec: stamp[1] };
}

let refusal = "";
function traceLine() {
  const mine = stage.mine;
  const person = state.engine?.instruction && state.trace?.person;
  let line = "The model plans its own trace. Drag across the image to draw yours.";
  let kind = "model";
  if (state.engine?.instruction && state.trace?.source.startsWith("unknown")) line = `The trace’s source is ${state.trace.source}.`;
  if (state.engine?.instruction && state.trace?.source === "actions") {
    line = state.trace.points.length ? "The line is the way of the hand by the actions; this model plans no trace, and follows none." : "Where the hand will go is not known in the image; this model plans no trace.";
    kind = "actions";
  }
  if (!stage.drawable) [line, kind] = ["A trace is drawn on the front camera’s image.", ""];
  else if (mine && refusal) [line, kind] = [`Not used: ${refusal}`, "refused"];
  else if (taken()) [line, kind] = ["Your trace was taken up; the next step follows it.", "mine"];
  else if (mine && !state.engine?.instruction) [line, kind] = ["Your trace goes with the next instruction.", "mine"];
  else if (mine) [line, kind] = ["Your trace is sent when you let go.", "mine"];
  else if (person) {
    const left = state.engine.points_left;
    [line, kind] = [`An operator’s trace is in use${left ? `, ${left} points left` : ""} (plan ${state.trace.plan}).`, "person"];
  } else if (state.engine?.instruction && state.engine.trace_message) [line, kind] = [`Operator’s trace: ${state.engine.trace_message}. The model plans again.`, "model"];
  text("trace-line", line);
  $("trace-line").className = kind;
  $("clear").disabled = !mine && !person;
  $("edit").disabled = !stage.drawable;
}
$("edit").onclick = () => stage.edit();
$("clear").onclick = async () => {
  refusal = "";
  const person = state.trace?.person;
  stage.forget();
  if (person && state.engine?.instruction) {
    const answer = await control.ask({ do: "draw", stroke: null });
    if (!answer.ok) tell(answer);
  }
};

// Instructions

const history = () => JSON.parse(localStorage.getItem("history") ?? "[]");

async function instruct(move) {
  const words = $("text").value.trim();
  const mine = stage.mine;
  const answer = await control.ask({ do: "instruct", text: words, move, stroke: mine && move ? stroke(mine, stage.stamp) : null });
  if (answer.ok) {
    localStorage.setItem("history", JSON.stringify([words, ...history().filter((w) => w !== words)].slice(0, KEPT)));
    if (mine && move) sent = { points: mine, count: 0 }; // with the task, traces of earlier ones were forgotten
    tell({ ok: true, message: move ? `Doing it: ${words}` : `Planning only, the arm is not started: ${words}` });
  } else tell(answer);
  offer();
}
$("ask").onsubmit = (event) => {
  event.preventDefault();
  $("text").blur(); // so that Space stops
  offers(false);
  instruct(true);
};
$("plan").onclick = () => instruct(false);
$("end").onclick = () => press("end");

function offer() {
  const typed = $("text").value.trim().toLowerCase();
  const past = history();
  const all = [...new Set([...past, ...about.suggestions])].filter((line) => line.toLowerCase() !== typed);
  const words = past.includes(typed) || about.suggestions.includes(typed) ? [] : typed.split(/\s+/); // a whole one: then all
  const fits = all.filter((line) => words.every((w) => line.toLowerCase().includes(w)));
  $("offers").replaceChildren(
    ...fits.slice(0, OFFERED).map((line) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: line });
      button.classList.toggle("past", past.includes(line));
      button.onclick = () => {
        $("text").value = line;
        $("text").focus();
        offer();
      };
      const item = document.createElement("li");
      item.append(button);
      return item;
    }),
  );
  offers(fits.length > 0);
}
function offers(open) {
  $("text").setAttribute("aria-expanded", open);
}
$("text").oninput = offer;
$("text").onkeydown = (event) => {
  if (event.key !== "ArrowDown") return;
  event.preventDefault();
  $("offers").querySelector("button")?.focus();
};
$("offers").onkeydown = (event) => {
  const way = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 }[event.key];
  if (!way) return;
  event.preventDefault();
  const all = [...$("offers").querySelectorAll("button")];
  (all[all.indexOf(document.activeElement) + way] ?? $("text")).focus();
};

// Stop and the others

async function stop() {
  letGo();
  wanted = performance.now();
  document.body.classList.add("stopping");
  const pressed = wanted;
  setTimeout(() => {
    document.body.classList.remove("stopping");
    if (wanted === pressed) warn("The stop is not confirmed. Use the robot’s own emergency stop.");
  }, NOT_STOPPED);
  try {
    const answer = await control.stop();
    if (!answer.ok) tell(answer);
  } catch {
    tell({ ok: false, message: "the panel’s server does not answer" });
  }
}
$("stop").addEventListener("pointerdown", stop);
$("stop").addEventListener("keydown", (event) => event.key === "Enter" && stop());
$("resume").onclick = () => press($("resume").dataset.does);
$("hold").onclick = () => press("hold");

// Space stops wherever no text is typed, also on a button that has the focus; Enter is what presses buttons here.
addEventListener("keydown", (event) => {
  const typing = event.target.matches?.("input[type=text]");
  if (event.key === "Escape" || (event.key === " " && !typing)) {
    event.preventDefault();
    if (!event.repeat) stop();
  }
}, { capture: true });
addEventListener("keyup", (event) => event.key === " " && !event.target.matches?.("input[type=text]") && event.preventDefault(), { capture: true });

// After a stop the first click resets it, and the arm holds; only another one lets the policy move it.
let means = { does: "", since: 0 };
function resume(safety) {
  const does = safety === "stopped" ? "reset" : "resume";
  if (does !== means.does) means = { does, since: performance.now() };
  const settling = performance.now() - means.since < SETTLE && safety === "hold";
  $("resume").dataset.does = does;
  text("resume", does === "reset" ? "Reset" : "Resume");
  $("resume").title = does === "reset" ? "Lifts the stop; the arm holds until you press Resume" : "The policy moves the arm";
  $("resume").disabled = settling || !["hold", "stopped", "teleop", "idle"].includes(safety);
}

async function press(name) {
  const answer = await control.ask({ do: name });
  if (!answer.ok) tell(answer);
}

function tell({ ok, message }) {
  text("answer", message);
  $("answer").className = ok ? "" : "warn";
}

function warn(message) {
  $("banner").hidden = !message;
  text("banner", message);
}

// Jog

const speed = () => Number($("speed").value) / 100;
$("speed").oninput = () => text("speed-value", `${$("speed").value} %`);
letGo = build($("jog"), control, () => arm, speed, tell);
showCollect = buildCollect($("collect"), control, tell);

// The rest

function text(id, words) {
  if ($(id).textContent !== words) $(id).textContent = words;
}

function choices(root, list, chosen, choose) {
  root.replaceChildren(
    ...list.map(([value, label]) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: label });
      button.setAttribute("role", "radio");
      button.setAttribute("aria-checked", value === chosen);
      button.onclick = () => {
        for (const other of root.children) other.setAttribute("aria-checked", other === button);
        choose(value);
      };
      return button;
    }),
  );
}

let seen = 0;
function blind(message) {
  text("blind", message);
  $("stage").classList.remove("seen");
}
let [counted, countedAt] = [0, performance.now()];
setInterval(() => {
  const now = performance.now();
  text("rate", `${Math.round(((frames - counted) * 1000) / (now - countedAt))} frames/s`);
  [counted, countedAt] = [frames, now];
  if (now - seen > 2000 && $("stage").classList.contains("seen")) blind("no image for two seconds");
}, 1000);

$("theme").onclick = () => choose(theme() === "dark" ? "light" : "dark");
