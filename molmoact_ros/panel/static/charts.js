// The plan's motions and the engine's stages, as small charts.

const SVG = "http://www.w3.org/2000/svg";
const [WIDTH, HEIGHT, PAD, GRIP] = [300, 104, 6, 10];

function add(parent, name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

// One chart for each arm: how far the hand goes along x, y and z, in mm, and below whether it is open. Rows of the chunk
// hold all translations first, then rotations, then grippers (ActionChunk.msg).
export function chunk(root, actions) {
  root.replaceChildren();
  const arms = Math.round((actions[0]?.length ?? 0) / 7);
  for (let arm = 0; arm < arms; arm++) {
    const paths = [0, 1, 2].map((axis) => {
      let sum = 0;
      return [0, ...actions.map((row) => (sum += 1000 * row[3 * arm + axis]))];
    });
    const far = Math.max(10, ...paths.flat().map(Math.abs));
    const bottom = HEIGHT - GRIP - PAD;
    const x = (k) => PAD + ((WIDTH - 2 * PAD) * k) / actions.length;
    const y = (v) => PAD + ((bottom - 2 * PAD) * (far - v)) / (2 * far);
    const ends = ["x", "y", "z"].map((name, axis) => `${name} ${Math.round(paths[axis].at(-1))} mm`);
    const svg = add(root, "svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `The hand goes ${ends.join(", ")}` });
    add(svg, "line", { x1: PAD, x2: WIDTH - PAD, y1: y(0), y2: y(0), class: "zero" });
    paths.forEach((path, axis) => {
      add(svg, "polyline", { points: path.map((v, k) => `${x(k)},${y(v)}`).join(" "), class: `axis a${axis}` });
    });
    actions.forEach((row, k) => {
      const open = Math.min(1, Math.max(0, row[6 * arms + arm]));
      add(svg, "rect", { x: x(k) + 0.5, width: x(1) - x(0) - 1, y: HEIGHT - GRIP, height: GRIP - 2, rx: 2, class: "grip", "fill-opacity": 0.12 + 0.75 * (1 - open) });
    });
    add(svg, "line", { x1: PAD, x2: PAD, y1: PAD, y2: HEIGHT, class: "now" });
    const legend = document.createElement("ul");
    legend.className = "legend";
    for (const text of [...ends, "grip"]) {
      const item = document.createElement("li");
      item.className = text[0] === "g" ? "grip" : `a${"xyz".indexOf(text[0])}`;
      item.textContent = text;
      legend.append(item);
    }
    root.append(legend);
  }
}

// Where the chunk is being played, 0..1.
export function progress(root, share) {
  for (const line of root.querySelectorAll(".now")) {
    const x = PAD + (WIDTH - 2 * PAD) * share;
    line.setAttribute("x1", x);
    line.setAttribute("x2", x);
  }
}

export function stages(bar, names, list) {
  const sum = list.reduce((all, [, seconds]) => all + (seconds ?? 0), 0) || 1;
  bar.replaceChildren();
  names.replaceChildren();
  list.forEach(([name, seconds], number) => {
    const part = document.createElement("i");
    part.className = `s${number % 6}`;
    part.style.flexGrow = (seconds ?? 0) / sum;
    bar.append(part);
    const item = document.createElement("li");
    item.className = `s${number % 6}`;
    item.innerHTML = "<span></span><b></b>";
    item.firstChild.textContent = name;
    item.lastChild.textContent = `${Math.round(1000 * (seconds ?? 0))} ms`;
    names.append(item);
  });
}
