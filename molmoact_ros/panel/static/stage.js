// The picture with the traces over it: the model's, and a person's, which is drawn, dragged, and edited by keyboard.

import { MOST, inside, length, simplified } from "./trace.js";

const SVG = "http://www.w3.org/2000/svg";
const STEP = 0.01; // of the picture, one press of an arrow key
const PAUSE = 700; // ms after the last key until an edited trace is sent
const SHORTEST = 0.02; // of the picture's width: less is a tap, not a stroke

export class Stage {
  #canvas; #svg; #shown = null; #mine = null; #pointer = null; #timer = 0; #focus = -1;

  // send(points, stamp): a person's trace is finished; changed(): whether there is one has changed.
  constructor(canvas, svg, send, changed) {
    [this.#canvas, this.#svg, this.send, this.changed] = [canvas, svg, send, changed];
    this.stamp = [0, 0];
    this.drawable = true;
    svg.addEventListener("pointerdown", (event) => this.#down(event));
    svg.addEventListener("pointermove", (event) => this.#move(event));
    svg.addEventListener("pointerup", (event) => this.#up(event));
    svg.addEventListener("pointercancel", () => this.#cancel());
    svg.addEventListener("keydown", (event) => this.#key(event));
  }

  // Pictures

  async show(bitmap, stamp, drawable) {
    if (this.#canvas.width !== bitmap.width || this.#canvas.height !== bitmap.height) {
      [this.#canvas.width, this.#canvas.height] = [bitmap.width, bitmap.height];
      this.#svg.setAttribute("viewBox", `0 0 640 ${Math.round((640 * bitmap.height) / bitmap.width)}`);
      this.#canvas.parentElement.style.setProperty("--aspect", bitmap.width / bitmap.height);
      this.redraw();
    }
    this.#canvas.getContext("2d", { alpha: false }).drawImage(bitmap, 0, 0);
    this.stamp = stamp;
    if (drawable !== this.drawable) {
      this.drawable = drawable;
      this.redraw();
    }
  }

  get aspect() {
    return this.#canvas.width / this.#canvas.height;
  }

  // Traces

  // The trace that the policy says, { points, person, source }, or null.
  follow(trace) {
    const text = JSON.stringify(trace);
    if (text === JSON.stringify(this.#shown)) return;
    this.#shown = trace;
    if (!this.#pointer) this.redraw();
  }

  // What a person has drawn and the policy has not taken up yet, or null.
  get mine() {
    return this.#mine;
  }

  forget() {
    clearTimeout(this.#timer);
    this.#mine = null;
    this.redraw();
  }

  // A trace to edit by keyboard: the one that is followed, or a line through the middle.
  edit() {
    this.#mine ??= this.#shown?.points.length > 1 ? structuredClone(this.#shown.points) : [[0.5, 0.4], [0.5, 0.6]];
    this.#focus = this.#mine.length - 1;
    this.redraw();
  }

  // Pointers

  #at(event) {
    const box = this.#svg.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  #down(event) {
    if (event.button || this.#pointer || !this.drawable || !this.stamp[0]) return; // no picture, nothing to draw on
    event.preventDefault();
    document.activeElement?.blur(); // so that Space stops
    this.#svg.setPointerCapture(event.pointerId);
    clearTimeout(this.#timer);
    const target = event.target.closest("[data-point], [data-between]");
    const before = this.#mine;
    if (target) {
      this.#mine = structuredClone(this.#mine ?? this.#shown.points);
      let number = Number(target.dataset.point);
      if (target.dataset.between !== undefined) {
        number = Number(target.dataset.between);
        this.#mine.splice(number, 0, inside(this.#at(event)));
      }
      this.#focus = number;
      this.#pointer = { id: event.pointerId, number, before };
    } else {
      this.#mine = [inside(this.#at(event))];
      this.#pointer = { id: event.pointerId, number: -1, before };
    }
    this.redraw();
  }

  #move(event) {
    if (this.#pointer?.id !== event.pointerId) return;
    if (this.#pointer.number >= 0) this.#mine[this.#pointer.number] = inside(this.#at(event));
    else {
      // Between two pictures a mouse reports several places.
      const events = event.getCoalescedEvents?.() ?? [];
      for (const each of events.length ? events : [event]) this.#mine.push(inside(this.#at(each)));
    }
    this.redraw();
  }

  #up(event) {
    if (this.#pointer?.id !== event.pointerId) return;
    const { number, before } = this.#pointer;
    this.#pointer = null;
    this.#focus = -1;
    if (number < 0) {
      if (this.#mine.length < 2 || length(this.#mine, this.aspect) < SHORTEST) {
        this.#mine = before; // a tap
        return this.redraw();
      }
      this.#mine = simplified(this.#mine, this.aspect);
    }
    this.#finish();
  }

  #cancel() {
    if (!this.#pointer) return;
    this.#mine = this.#pointer.before;
    this.#pointer = null;
    this.redraw();
  }

  // Keys, on a point that has the focus

  #key(event) {
    const number = Number(event.target.dataset?.point ?? -1);
    if (number < 0) return;
    const step = event.shiftKey ? 5 * STEP : STEP;
    const way = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] }[event.key];
    const points = structuredClone(this.#mine ?? this.#shown.points);
    if (way) points[number] = inside([points[number][0] + way[0], points[number][1] + way[1]]);
    else if ((event.key === "Insert" || event.key === "+") && points.length < MOST) {
      const other = points[number + 1] ?? points[number - 1];
      points.splice(number + (points[number + 1] ? 1 : 0), 0, points[number].map((v, axis) => (v + other[axis]) / 2));
    } else if ((event.key === "Delete" || event.key === "Backspace") && points.length > 2) points.splice(number, 1);
    else if (event.key !== "Enter") return;
    event.preventDefault();
    this.#mine = points;
    this.#focus = Math.min(number, points.length - 1);
    this.redraw();
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#finish(), event.key === "Enter" ? 0 : PAUSE);
  }

  #finish() {
    this.redraw();
    this.send(this.#mine, this.stamp);
  }

  // Drawing

  redraw() {
    const [w, h] = [640, 640 / this.aspect];
    const focused = this.#svg.contains(document.activeElement) ? Number(document.activeElement.dataset.point) : this.#focus;
    this.#svg.replaceChildren();
    this.#svg.classList.toggle("off", !this.drawable);
    if (!this.drawable) return this.changed();
    const place = ([x, y]) => [x * w, y * h];
    if (this.#shown && !(this.#mine && this.#shown.person)) this.#line(this.#shown.points.map(place), this.#shown.source === "actions" ? "actions" : this.#shown.person ? "person" : "model");
    if (this.#mine) this.#line(this.#mine.map(place), "mine");
    const points = this.#mine ?? (this.#shown?.person ? this.#shown.points : []);
    if (this.#pointer?.number !== -1) this.#handles(points.map(place), points);
    if (focused >= 0 && !this.#pointer) this.#svg.querySelector(`[data-point="${focused}"]`)?.focus({ preventScroll: true });
    this.changed();
  }

  #line(points, kind) {
    const group = this.#add(this.#svg, "g", { class: `line ${kind}` });
    const way = points.map((p) => p.join(",")).join(" ");
    for (const part of ["edge", "core"]) this.#add(group, "polyline", { points: way, class: part });
    const [first, last] = [points[0], points[points.length - 1]];
    this.#add(group, "circle", { cx: first[0], cy: first[1], r: 5, class: "first" });
    this.#add(group, "circle", { cx: last[0], cy: last[1], r: 8, class: "edge" });
    this.#add(group, "circle", { cx: last[0], cy: last[1], r: 8, class: "core" });
  }

  #handles(places, points) {
    for (let i = 1; i < places.length && places.length < MOST; i++) {
      const [x, y] = places[i].map((v, axis) => (v + places[i - 1][axis]) / 2);
      const between = this.#add(this.#svg, "g", { class: "between", "data-between": i });
      this.#add(between, "circle", { cx: x, cy: y, r: 15, class: "reach" });
      this.#add(between, "circle", { cx: x, cy: y, r: 4 });
    }
    places.forEach(([x, y], number) => {
      const [right, down] = points[number].map((v) => Math.round(100 * v));
      const label = `Point ${number + 1} of ${points.length}, ${right} % right, ${down} % down. Arrows move it, Insert adds one, Delete removes it, Enter sends.`;
      const point = this.#add(this.#svg, "g", { class: "point", "data-point": number, tabindex: 0, role: "button", "aria-label": label });
      this.#add(point, "circle", { cx: x, cy: y, r: 22, class: "reach" });
      this.#add(point, "circle", { cx: x, cy: y, r: 7, class: "knob" });
    });
  }

  #add(parent, name, attributes) {
    const element = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
    parent.append(element);
    return element;
  }
}
