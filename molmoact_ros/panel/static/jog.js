// Buttons that move a hand while they are held: by pointer, or by Enter. Whatever ends the hold ends the motion.

const PERIOD = 50; // ms between words; the server takes 150 ms of silence for letting go
// Part of the twist (x, y, z, about x, y, z), its sign, a label and what it says to a screen reader.
const MOVES = [
  [0, 1, "↑", "ahead"], [0, -1, "↓", "back"], [1, 1, "←", "left"], [1, -1, "→", "right"], [2, 1, "⤒", "up"], [2, -1, "⤓", "down"],
  [5, 1, "⟲", "turn left"], [5, -1, "⟳", "turn right"], [4, 1, "⤵", "tilt forward"], [4, -1, "⤴", "tilt back"],
  [3, -1, "↶", "roll left"], [3, 1, "↷", "roll right"],
];
const HOME = ["home", 0, "⌂", "home"]; // the arm's start position, slowly

export function build(root, control, arm, speed, tell) {
  const held = new Map(); // what holds -> [part, sign]
  let timer = 0;

  const speak = () => {
    if ([...held.values()].some(([part]) => part === "home")) return control.sayNow({ do: "home", arm: arm() });
    const twist = [0, 0, 0, 0, 0, 0];
    for (const [part, sign] of held.values()) twist[part] = Math.max(-1, Math.min(1, twist[part] + sign * speed()));
    control.sayNow({ do: "jog", arm: arm(), twist });
  };
  const press = (key, move, button) => {
    button.classList.add("held");
    held.set(key, move);
    if (!timer) timer = setInterval(speak, PERIOD);
    speak();
  };
  const release = (key, button) => {
    button.classList.remove("held");
    if (!held.delete(key) || held.size) return;
    clearInterval(timer);
    timer = 0;
    control.ask({ do: "let_go" });
  };
  const releaseAll = () => {
    for (const button of root.querySelectorAll(".held")) button.classList.remove("held");
    if (!held.size) return;
    held.clear();
    clearInterval(timer);
    timer = 0;
    control.ask({ do: "let_go" });
  };

  for (const [part, sign, sign_, name] of [...MOVES, HOME]) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = `jog ${name.replace(" ", "-")}`;
    button.innerHTML = `<b aria-hidden="true">${sign_}</b><span>${name}</span>`;
    const move = [part, sign];
    button.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      button.setPointerCapture(event.pointerId);
      press(event.pointerId, move, button);
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) {
      button.addEventListener(end, (event) => release(event.pointerId, button));
    }
    button.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault();
      if (!event.repeat) press(name, move, button);
    });
    button.addEventListener("keyup", (event) => event.key === "Enter" && release(name, button));
    button.addEventListener("blur", () => release(name, button));
    button.addEventListener("contextmenu", (event) => event.preventDefault());
    root.append(button);
  }
  for (const [name, open] of [["open hand", true], ["close hand", false]]) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = `grip ${name.replace(" ", "-")}`;
    button.textContent = name;
    button.addEventListener("click", async () => tell(await control.ask({ do: "grip", arm: arm(), open })));
    root.append(button);
  }
  addEventListener("blur", releaseAll);
  addEventListener("pagehide", releaseAll);
  document.addEventListener("visibilitychange", () => document.hidden && releaseAll());
  return releaseAll;
}
