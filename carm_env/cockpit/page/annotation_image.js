// One image of a CT: marks of the landmarks, clicks, and a cross that keys move.

import { Viewer } from "./viewer.js";

const CURRENT = "#ffc400";
const OTHER = "#5fc7ba";
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
// Pixels of the cross, and mm of the landmark, for an arrow key: plain, with Shift, with Ctrl.
const STEPS_PX = [1, 5, 25];
const STEPS_MM = [1, 5, 20];
const SIDES = { frontal: ["R", "L"], lateral: ["A", "P"] };

export class AnnotationImage {
  // `place` is told the view and pixel of a click, `nudge` the plane and the millimetres of a key.
  constructor(figure, { adjust, place, nudge, focused }) {
    this.figure = figure;
    this.name = figure.dataset.view;
    this.plane = this.name.split("_")[0];
    this.isClose = this.name.endsWith("_close");
    this.canvas = figure.querySelector("canvas");
    this.place = place;
    this.nudge = nudge;
    this.cursor = null;
    this.marks = [];
    this.viewer = new Viewer(this.canvas, adjust, {
      sides: SIDES[this.plane],
      cross: this.isClose,
      paint: (context, ratio) => this.paint(context, ratio),
      // The middle of the first pixel is (0, 0) for the server.
      clicked: ([u, v]) => this.click(u - 0.5, v - 0.5),
    });
    this.canvas.addEventListener("keydown", (event) => this.press(event));
    this.canvas.addEventListener("focus", () => focused(this));
    this.canvas.addEventListener("blur", () => { this.cursor = null; this.viewer.draw(); });
  }

  // The X-ray and the maximum-intensity projection of the whole CT have the same place.
  shows(view) { return view.replace("_xray", "") === this.name; }

  load(header, pixels) {
    if (this.view !== header.view) this.cursor = null;
    this.view = header.view;
    this.size = [header.width, header.height];
    this.viewer.load(pixels, ...this.size, header.pixel);
  }

  show(state) {
    this.figure.hidden = this.isClose && !state.marks[this.name];
    this.marks = state.marks[this.view] ?? [];
    this.landmarks = state.landmarks;
    if (this.current !== state.current) this.cursor = null;
    this.current = state.current;
    this.viewer.draw();
  }

  // Clicks beside the image, in the black margin of the canvas, mean nothing.
  click(u, v) {
    const inside = [u, v].every((value, axis) => value >= -0.5 && value <= this.size[axis] - 0.5);
    if (inside) this.place(this.view, u, v);
  }

  press(event) {
    const direction = ARROWS[event.key];
    if (direction) {
      event.preventDefault();
      const size = event.ctrlKey ? 2 : event.shiftKey ? 1 : 0;
      if (this.isClose) this.nudge(this.plane, direction[0] * STEPS_MM[size], -direction[1] * STEPS_MM[size]);
      else this.moveCursor(direction.map((step) => step * STEPS_PX[size]));
    } else if (event.key === "Enter" && this.cursor && !event.repeat) {
      event.preventDefault();
      this.place(this.view, ...this.cursor);
    }
  }

  moveCursor(step) {
    const mark = this.marks.find(([id]) => id === this.current);
    const from = this.cursor ?? (mark ? mark.slice(1) : this.size.map((side) => Math.round((side - 1) / 2)));
    this.cursor = from.map((value, axis) => Math.min(this.size[axis] - 1, Math.max(0, value + step[axis])));
    this.viewer.draw();
  }

  paint(context, ratio) {
    context.font = `600 ${12 * ratio}px system-ui, sans-serif`;
    context.textBaseline = "middle";
    context.textAlign = "left";
    for (const [id, u, v] of this.marks) {
      const isCurrent = id === this.current;
      // The cross-hair of a centred X-ray marks it.
      if (isCurrent && this.isClose) continue;
      const [x, y] = this.viewer.toCanvas(u + 0.5, v + 0.5);
      context.strokeStyle = context.fillStyle = isCurrent ? CURRENT : OTHER;
      context.lineWidth = (isCurrent ? 2 : 1.2) * ratio;
      context.beginPath();
      context.arc(x, y, (isCurrent ? 7 : 3) * ratio, 0, 7);
      context.stroke();
      this.viewer.label(isCurrent ? this.landmarks[id - 1].name : String(id), x + 10 * ratio, y, ratio);
    }
    if (this.cursor) this.paintCursor(context, ratio);
  }

  paintCursor(context, ratio) {
    const [x, y] = this.viewer.toCanvas(this.cursor[0] + 0.5, this.cursor[1] + 0.5);
    context.strokeStyle = CURRENT;
    context.lineWidth = ratio;
    context.setLineDash([5 * ratio, 4 * ratio]);
    context.beginPath();
    context.moveTo(0, y);
    context.lineTo(this.canvas.width, y);
    context.moveTo(x, 0);
    context.lineTo(x, this.canvas.height);
    context.stroke();
    context.setLineDash([]);
  }
}
